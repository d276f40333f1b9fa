"""Bytes by direction: raw, coded and on the wire, each by its name."""

from __future__ import annotations

from collections.abc import Sequence

from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.report.cells import number
from fedkd.results.report.chart import Axis, Line, line_chart
from fedkd.results.report.names import in_detail
from fedkd.results.report.parts import Figure, Panel, Section, Table
from fedkd.results.report.series import course, table_of
from fedkd.results.row_keys import describe_key
from fedkd.results.statistics import mean_interval, size

KEYS = (
    *("bytes_up", "coded_bytes_up", "wire_bytes_up", "bytes_down", "coded_bytes_down", "wire_bytes_down"),
    "evaluation_bytes",
)
INTRO = (
    "Sums over all clients. Raw: the elements of the tensors, as papers count them. Coded: as codecs made them smaller; equal "
    "to raw where there is none. On the wire: as Flower sends them, with names and headers. Evaluation is counted apart, both "
    "ways."
)


def traffic(groups: Sequence[Seeds]) -> Section:
    """The section: a table of all groups, and how bytes grow over the rounds."""
    figures = [figure for more, run in in_detail(groups) for figure in _figure(run, more)]
    return Section("bytes", "Bytes", INTRO, figures, [_totals(groups)])


def _totals(groups: Sequence[Seeds]) -> Table:
    rows = []
    for key in KEYS:
        sums = [[sum(number(row, key) or 0 for row in run.rows) for run in group.runs] for group in groups]
        rows.append([describe_key(key).label, *(_reading(each) for each in sums)])
    return Table("Bytes of all rounds", ["direction, and how counted", *(group.label for group in groups)], rows)


def _reading(sums: Sequence[float]) -> str:
    mean, half = mean_interval(sums)
    return size(float(mean)) if len(sums) < 2 or not half else f"{size(float(mean))} ± {size(float(half))}"


def _figure(run: RecordedRun, more: str) -> list[Figure]:
    """Cumulative bytes; of counts that are the same all along, only the first is drawn."""
    lines: list[Line] = []
    for style, key in enumerate(KEYS):
        total = 0.0
        x: list[float] = []
        y: list[float] = []
        for row in run.rows:
            total += number(row, key) or 0
            if total:
                x, y = [*x, float(row["round"])], [*y, total]
        if y and all(list(line.y) != y for line in lines):
            lines.append(Line(describe_key(key).label, style, x, y, [size(value) for value in y]))
    if not lines:
        return []
    finding = "Bytes since the start: " + "; ".join(course(line, "bytes_up") for line in lines) + "."
    drawing = line_chart(lines, Axis("round", "round"), Axis("since the start (log scale)", "bytes"), finding)
    title = f"Bytes since the start{more}"
    return [Figure(title, [Panel("", drawing)], table_of(title, lines), [(line.style, line.name) for line in lines])]
