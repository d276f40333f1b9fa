"""The first section: accuracy against rounds, bytes, seconds, and the seconds of the virtual clock where there is one."""

from __future__ import annotations

from collections.abc import Sequence

from fedkd.results.curves import curve, headline, measures
from fedkd.results.recorded import Seeds
from fedkd.results.report.cells import number
from fedkd.results.report.chart import Axis, line_chart
from fedkd.results.report.comparison import refusal
from fedkd.results.report.parts import Figure, Panel, Section, Table
from fedkd.results.report.series import Read, axis_of, course, line_of, measured_rounds, summed
from fedkd.results.row_keys import describe_key, with_test_set
from fedkd.results.statistics import duration, sent_up, size


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
        ("time", Axis("time since the start", "seconds"), lambda row: number(row, "seconds")),
    ]
    if any(number(row, "simulated_seconds") is not None for _, group in shown for run in group.runs for row in run.rows):
        against.append(("simulated time", Axis("simulated time", "seconds"), lambda row: number(row, "simulated_seconds")))
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
    title = "Accuracy against rounds, bytes and time"
    legend = [
        (style, line.name + (f": {headline(groups[style].runs[0])}" if len(names) > 1 else "")) for style, line in lines.items()
    ]
    return Section("convergence", "Convergence", intro, [Figure(title, panels, _table(shown, len(against) > 3), legend)])


def _table(shown: Sequence[tuple[int, Seeds]], clock: bool) -> Table:
    """A row for each group and round: accuracy, and what it had taken until then."""
    columns = ["round", "run", "accuracy", "uploaded", describe_key("seconds").short, *(["simulated time"] if clock else [])]
    rows = []
    for _, group in shown:
        line, rounds = line_of(group, "accuracy"), measured_rounds(group, "accuracy")
        sums = [_mean(group, sent_up, rounds), _mean(group, lambda row: number(row, "seconds"), rounds)]
        sums += [_mean(group, lambda row: number(row, "simulated_seconds"), rounds)] if clock else []
        for place, round in enumerate(rounds):
            taken = [size(sums[0][place]), *(duration(each[place]) for each in sums[1:])]
            rows.append([str(round), group.label, line.values[place], *taken])
    return Table("Accuracy, and what it had taken until then", columns, rows)


def _mean(group: Seeds, read: Read, rounds: Sequence[int]) -> list[float]:
    each = [summed(run, read, rounds) for run in group.runs]
    return [sum(values) / len(values) for values in zip(*each, strict=True)]
