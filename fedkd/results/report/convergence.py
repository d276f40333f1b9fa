"""The first section: accuracy against rounds, bytes, seconds, and what else every run has recorded of its cost."""

from __future__ import annotations

from collections.abc import Sequence

from fedkd.results.curves import curve, headline, is_recorded, measures
from fedkd.results.recorded import Seeds
from fedkd.results.report.cells import cell, number
from fedkd.results.report.chart import Axis, line_chart
from fedkd.results.report.comparison import refusal
from fedkd.results.report.parts import Figure, Panel, Section, Table
from fedkd.results.report.series import Read, axis_of, course, line_of, measured_rounds, summed
from fedkd.results.row_keys import describe_key, with_test_set
from fedkd.results.statistics import sent_up, size

#: What a round takes: a panel each, the last three where every round of every run has recorded it.
COSTS = ("seconds", "cpu_seconds", "joules", "simulated_seconds")


def convergence(groups: Sequence[Seeds]) -> Section:
    """Accuracy of every group, the mean over its seeds with a 95 % band."""
    failed = [all(run.failure for run in group.runs) for group in groups]  # beside others it has nothing to show
    shown = [
        (style, group)
        for style, group in enumerate(groups)
        if measured_rounds(group, "accuracy") and not (failed[style] and len(groups) > 1)
    ]
    if not shown:
        return Section("convergence", "Convergence")
    against: list[tuple[str, Axis, Read | None]] = [
        ("rounds", Axis("round", "round"), None),
        ("uploaded bytes", Axis("uploaded by all clients (log scale)", "bytes"), sent_up),
    ]
    runs = [run for _, group in shown for run in group.runs]
    costs = [key for key in COSTS if key == "seconds" or all(is_recorded(run.rows, key) for run in runs)]
    for key in costs:
        label = "time since the start" if key == "seconds" else describe_key(key).label
        axis = Axis(describe_key(key).axis) if key == "joules" else Axis(label, "seconds")
        against.append((describe_key(key).label, axis, _reader(key)))
    lines = {style: line_of(group, "accuracy", style=style) for style, group in shown}
    courses = "; ".join(course(line, "accuracy") for line in lines.values())
    panels = []
    for what, axis, read in against:
        drawn = [line_of(group, "accuracy", style=style, against=read) for style, group in shown]
        finding = f"Accuracy against {what}: {courses}."
        drawing = line_chart(drawn, axis, axis_of("accuracy"), finding, beside=list(lines.values()))
        panels.append(Panel(f"against {what}", drawing))
    names = measures([curve(group, "accuracy") for _, group in shown])
    whose = " or ".join(with_test_set(name) for name in names)
    several = any(len(group.runs) > 1 for _, group in shown)
    intro = f"Accuracy of: {whose}." + (
        " Lines are means over seeds, bands their 95 % intervals of Student's t." if several else ""
    )
    if why := refusal([group for _, group in shown]):
        intro += f" These numbers must not be held against each other: {why}."
    *names_of_axes, last = (what for what, *_ in against)
    title = f"Accuracy against {', '.join(names_of_axes)} and {last}"
    legend = [
        (style, line.name + (f": {headline(groups[style].runs[0])}" if len(names) > 1 else "")) for style, line in lines.items()
    ]
    return Section("convergence", "Convergence", intro, [Figure(title, panels, _table(shown, costs), legend)])


def _reader(key: str) -> Read:
    return lambda row: number(row, key)


def _table(shown: Sequence[tuple[int, Seeds]], costs: Sequence[str]) -> Table:
    """A row for each group and round: accuracy, and what it had taken until then."""
    columns = ["round", "run", "accuracy", "uploaded", *(describe_key(key).short for key in costs)]
    rows = []
    for _, group in shown:
        line, rounds = line_of(group, "accuracy"), measured_rounds(group, "accuracy")
        sent, sums = _mean(group, sent_up, rounds), {key: _mean(group, _reader(key), rounds) for key in costs}
        for place, round in enumerate(rounds):
            taken = [size(sent[place]), *(cell(key, each[place]) for key, each in sums.items())]
            rows.append([str(round), group.label, line.values[place], *taken])
    return Table("Accuracy, and what it had taken until then", columns, rows)


def _mean(group: Seeds, read: Read, rounds: Sequence[int]) -> list[float]:
    each = [summed(run, read, rounds) for run in group.runs]
    return [sum(values) / len(values) for values in zip(*each, strict=True)]
