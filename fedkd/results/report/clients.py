"""Accuracy of each client over the rounds: a heat map, and how far clients lie apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.report.cells import cell
from fedkd.results.report.chart import Axis, Line, line_chart
from fedkd.results.report.heat_map import heat_map, lowest_and_highest
from fedkd.results.report.names import in_detail
from fedkd.results.report.parts import Figure, Panel, Section, Table
from fedkd.results.report.series import course, table_of

#: More clients than this are shown in so many groups of neighbours in accuracy.
SINGLY, GROUPS = 100, 50
Floats = NDArray[np.float64]
INTRO = (
    "Each client's accuracy on its own test samples. The worst tenth is the mean over the tenth of clients with the lowest "
    "accuracy of that round, the best tenth likewise."
)


def clients(groups: Sequence[Seeds]) -> Section:
    """The section, of the first seed of each group."""
    figures = [figure for more, run in in_detail(groups) for figure in _figures(run, more)]
    return Section("clients", "Clients", INTRO if figures else "", figures)


def accuracies_of_clients(run: RecordedRun) -> tuple[list[int], list[int], Floats]:
    """The rounds (R) in which clients were scored, the clients (K), and their accuracies (K, R): NaN where there is none."""
    scored = [row for row in run.clients if row.get("accuracy") is not None]
    rounds, ids = sorted({row["round"] for row in scored}), sorted({row["client"] for row in scored})
    columns, places = ({value: place for place, value in enumerate(values)} for values in (rounds, ids))
    table = np.full((len(ids), len(rounds)), np.nan)
    for row in scored:
        table[places[row["client"]], columns[row["round"]]] = row["accuracy"]
    return rounds, ids, table


def _figures(run: RecordedRun, more: str) -> list[Figure]:
    rounds, ids, table = accuracies_of_clients(run)
    if not rounds:
        return []
    return [_heat_map(rounds, ids, table, more), _spread(rounds, table, more)]


def _heat_map(rounds: list[int], ids: list[int], table: Floats, more: str) -> Figure:
    labels, shown = _grouped(ids, table)
    last = table[:, -1]
    finding = "No client was scored in the last measured round."
    if found := lowest_and_highest(last):
        worst, best = found
        finding = (
            f"Accuracy of {len(ids)} clients in rounds {rounds[0]} to {rounds[-1]}. In round {rounds[-1]} client {ids[worst]} "
            f"has the lowest, {cell('accuracy', float(last[worst]))}, "
            f"client {ids[best]} the highest, {cell('accuracy', float(last[best]))}."
        )
    said = [["" if np.isnan(value) else f"{100 * value:.1f}" for value in row] for row in shown]
    names = ("client" if len(ids) <= SINGLY else "clients, by accuracy", "round")
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    columns = [str(round) for round in rounds]
    drawing = heat_map(shown, labels, columns, names=names, finding=finding, low=low, high=high, said=said)
    what = "Accuracy (%) by client and round" if len(ids) <= SINGLY else "Mean accuracy (%) of groups of clients by round"
    title = f"{what}, from {cell('accuracy', low)} (dark) to {cell('accuracy', high)} (light){more}"
    return Figure(
        title, [Panel("", drawing)], Table(what, [names[0], *columns], [[a, *b] for a, b in zip(labels, said, strict=True)])
    )


def _grouped(ids: list[int], table: Floats) -> tuple[list[str], Floats]:
    """One row a client; of many clients one row for each group of those that lie next to each other in the last round."""
    if len(ids) <= SINGLY:
        return [str(number) for number in ids], table
    order = np.argsort(np.nan_to_num(table[:, -1], nan=-1.0), kind="stable")
    parts = np.array_split(order, GROUPS)
    means = np.array([[_mean(table[part, column]) for column in range(table.shape[1])] for part in parts])
    ends = np.cumsum([len(part) for part in parts])
    return [f"{end - len(part) + 1}-{end}" for part, end in zip(parts, ends.tolist(), strict=True)], means


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _spread(rounds: list[int], table: Floats, more: str) -> Figure:
    ordered = [np.sort(column[np.isfinite(column)]) for column in table.T]
    tenths = [max(1, len(column) // 10) for column in ordered]
    values = {
        "mean": [float(column.mean()) for column in ordered],
        "worst tenth": [float(column[:tenth].mean()) for column, tenth in zip(ordered, tenths, strict=True)],
        "best tenth": [float(column[-tenth:].mean()) for column, tenth in zip(ordered, tenths, strict=True)],
    }
    lines = [
        Line(name, style, [float(round) for round in rounds], each, [cell("accuracy", value) for value in each])
        for style, (name, each) in enumerate(values.items())
    ]
    finding = "Clients' accuracies: " + "; ".join(course(line, "accuracy") for line in lines) + "."
    drawing = line_chart(lines, Axis("round", "round"), Axis("client accuracy", "share"), finding)
    title = f"How far clients lie apart{more}"
    return Figure(title, [Panel("", drawing)], table_of(title, lines), [(line.style, line.name) for line in lines])
