"""The teacher of each round: how good it is, whose answers it is made of, and where the students follow it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkd.results.logs import read_flow
from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.report.cells import capital, cell
from fedkd.results.report.chart import Axis, Line, line_chart
from fedkd.results.report.heat_map import heat_map
from fedkd.results.report.losses import plain_line
from fedkd.results.report.names import class_names, in_detail
from fedkd.results.report.parts import Figure, Panel, Section, Table
from fedkd.results.report.series import axis_of, course, table_of
from fedkd.results.row_keys import describe_key

ACCURACIES, OTHERS = (
    ("teacher_accuracy", "student_accuracy"),
    (*("teacher_agreement", "teacher_entropy", "teacher_calibration_error"),),
)
#: A longer table is left out: flow.jsonl has it.
MOST_CELLS = 12_000
FLOW_INTRO = (
    "Of each class that the teacher names, each client's share of what all clients' answers put on it: a column sums to 100 %. "
    "Below it, on how many of the samples of each class a client's answers of the next round, after learning and local "
    "training, are what the teacher before had said."
)
Floats = NDArray[np.float64]


def teacher(groups: Sequence[Seeds]) -> Section:
    """The section on quality, of methods that make one teacher of the clients' answers on public samples."""
    figures: list[Figure] = []
    pairs: list[tuple[str, str]] = []
    taught = [(more, run) for more, run in in_detail(groups) if any("teacher_entropy" in row for row in run.rows)]
    for more, run in taught:  # elsewhere a predictor may be called teacher or student
        lines = [line for style, key in enumerate(ACCURACIES) if (line := plain_line(run, key, style)).x]
        if lines:
            figures.append(
                _chart(f"Teacher and students on public samples{more}", lines, Axis("accuracy", "share"), "accuracy")
            )
            pairs += [(f"Better than the mean student{more}", verdict(run))] if len(lines) > 1 else []
        for key in OTHERS:
            if (line := plain_line(run, key, 0)).x:
                label = describe_key(key).label
                figures.append(_chart(f"{capital(label)}{more}", [line], axis_of(key), key))
    shown = [key for key in (*ACCURACIES, *OTHERS) if any(key in row for _, run in taught for row in run.rows)]
    pairs += [(capital(describe_key(key).label), describe_key(key).meaning) for key in shown]
    intro = (
        "What clients are taught on public samples, in every round in which it is made. A student is a client's own answer, "
        "before it learns from the teacher of this round. Labels of public samples are used for this alone, and only where the "
        "simulation has them."
    )
    return Section("teacher", "Teacher", intro if figures else "", figures, pairs=pairs)


def verdict(run: RecordedRun) -> str:
    """In how many rounds the teacher was better than the mean student, and by how much in the last."""
    both = [row for row in run.rows if all(row.get(key) is not None for key in ACCURACIES)]
    gains = [row["teacher_accuracy"] - row["student_accuracy"] for row in both]
    better = sum(gain > 0 for gain in gains)
    return (
        f"in {better} of {len(gains)} rounds; in round {both[-1]['round']} by {100 * gains[-1]:+.1f} points "
        f"({cell('accuracy', both[-1]['teacher_accuracy'])} against {cell('accuracy', both[-1]['student_accuracy'])})"
    )


def flow(groups: Sequence[Seeds]) -> Section:
    """The section on knowledge flow, of the last round that was logged."""
    figures = []
    for more, run in in_detail(groups):
        rows = read_flow(run.path)
        if rows:
            figures.append(_map(run, rows[-1], "shares", f"Whose answers carried each class, round {rows[-1]['round']}{more}"))
        if rows and "followed" in rows[-1]:
            title = f"Where clients followed the teacher before, round {rows[-1]['round']}{more}"
            figures.append(_map(run, rows[-1], "followed", title))
        followed = [row for row in rows if "followed" in row]
        if len(followed) > 1:
            figures.append(_followed(run, followed, f"Mean share of samples on which clients follow{more}"))
    return Section("flow", "Knowledge flow", FLOW_INTRO if figures else "", figures)


def _chart(title: str, lines: Sequence[Line], axis: Axis, key: str) -> Figure:
    finding = f"{title}: " + "; ".join(course(line, key) for line in lines) + "."
    legend = [(line.style, line.name) for line in lines] if len(lines) > 1 else []
    return Figure(title, [Panel("", line_chart(lines, Axis("round", "round"), axis, finding))], table_of(title, lines), legend)


def _map(run: RecordedRun, row: dict[str, Any], key: str, title: str) -> Figure:
    """Clients by classes, in percent."""
    values: Floats = np.array(row[key], dtype=np.float64)  # (K, C), null becomes NaN
    classes, clients = class_names(run, values.shape[1]), [str(client) for client in row["clients"]]
    said = [["" if np.isnan(value) else f"{100 * value:.0f}" for value in each] for each in values]
    high = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    finding = f"{title}. {_extremes(values, clients, classes, key)}"
    drawing = heat_map(values, clients, classes, names=("client", "class"), finding=finding, low=0.0, high=high, said=said)
    rows = [[name, *each] for name, each in zip(clients, said, strict=True)]
    rows.append(["samples", *(str(count) for count in row["samples"])])
    table = Table(f"{title}, in percent; samples that the teacher gives each class", ["client", *classes], rows)
    if values.size > MOST_CELLS:
        table = Table(
            f"{title}: {values.size} numbers, which flow.jsonl has",
            ["clients", "classes"],
            [[str(len(clients)), str(len(classes))]],
        )
    return Figure(f"{title}, from 0 (dark) to {100 * high:.0f} % (light)", [Panel("", drawing)], table)


def _extremes(values: Floats, clients: Sequence[str], classes: Sequence[str], key: str) -> str:
    if not np.isfinite(values).any():
        return "Nothing was measured."
    row, column = divmod(int(np.nanargmax(values)), values.shape[1])
    what = "carried most of a class" if key == "shares" else "followed most"
    return f"Client {clients[row]} {what}: {100 * values[row, column]:.0f} % of class {classes[column]}."


def _followed(run: RecordedRun, rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """The mean over clients and classes by round, every class counting the same; and the least and the most of all classes."""
    tables = [np.array(row["followed"], dtype=np.float64) for row in rows]
    rounds = [float(row["round"]) for row in rows]
    by_class = [
        [float(np.nanmean(column)) for column in table.T if np.isfinite(column).any()] or [float("nan")] for table in tables
    ]
    reads: dict[str, Callable[[list[float]], float]] = {
        "mean of all classes": mean,
        "class that is followed least": min,
        "class that is followed most": max,
    }
    lines = [
        Line(name, style, rounds, values, [cell("accuracy", value) for value in values])
        for style, (name, read) in enumerate(reads.items())
        for values in [[read(each) for each in by_class]]
    ]
    return _chart(title, lines, Axis("share of samples", "share"), "accuracy")
