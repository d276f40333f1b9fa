"""Losses by part, and whatever else a strategy reports of its training."""

from __future__ import annotations

from collections.abc import Sequence

from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.report.cells import capital, cell, number
from fedkd.results.report.chart import STYLES, Axis, Line, line_chart
from fedkd.results.report.names import in_detail
from fedkd.results.report.parts import Figure, Panel, Section
from fedkd.results.report.series import course, table_of
from fedkd.results.row_keys import BYTES, SHARE, describe_key, find_entry

#: Numbers that strategies report and that are no losses; those of privacy stand with the faults.
NO_LOSSES = ("distillation_weight", "edges", "staleness", "generation", "epsilon", "delta")
#: What begins so and is no loss: a count, or a number on clients.
COUNTED = ("clients_", "late_used")


def losses(groups: Sequence[Seeds]) -> Section:
    """The section: of each group the parts of its loss, and its other numbers."""
    figures = []
    for more, run in in_detail(groups):
        parts, others = keys_of(run)
        figures += _figures(run, parts, f"Loss by part{more}", "loss")
        for key in others:
            figures += _figures(run, [key], f"{capital(describe_key(key).label)}{more}", describe_key(key).axis)
    intro = (
        "As clients minimised them: means over their batches, weighted over clients by their samples; what the server trained "
        "has a line of its own. A part may have been multiplied by its weight before it was summed: its meaning says so."
    )
    meanings = {key: describe_key(key) for _, run in in_detail(groups) for keys in keys_of(run) for key in keys}
    pairs = [(capital(entry.label), entry.meaning) for entry in meanings.values()]
    return Section("losses", "Losses", intro if figures else "", figures, pairs=pairs)


def keys_of(run: RecordedRun) -> tuple[list[str], list[str]]:
    """The keys of losses, and of the other numbers that the strategy reports, in the order in which they were first logged."""
    written = dict.fromkeys(key for row in run.rows for key in row if number(row, key) is not None)
    reported = [key for key in written if not describe_key(key).owned or key.startswith("server_")]
    reported = [key for key in reported if describe_key(key).unit not in (SHARE, BYTES) and not key.startswith(COUNTED)]
    parts = [key for key in reported if find_entry(key) is not None and key not in NO_LOSSES]
    others = [key for key in reported if key not in parts and key not in ("epsilon", "delta")]
    return parts, others


def _figures(run: RecordedRun, keys: Sequence[str], title: str, axis: str) -> list[Figure]:
    lines: list[Line] = []
    for style, key in enumerate(keys[: 2 * STYLES]):
        line = plain_line(run, key, style)
        if line.x and not (key == "loss" and any(list(other.y) == list(line.y) for other in lines)):  # of a single part
            lines.append(line)
    if not lines:
        return []
    finding = f"{title}: " + "; ".join(course(line, "loss") for line in lines) + "."
    drawing = line_chart(lines, Axis("round", "round"), Axis(axis), finding)
    legend = [(line.style, line.name) for line in lines] if len(lines) > 1 else []
    return [Figure(title, [Panel("", drawing)], table_of(title, lines), legend)]


def plain_line(run: RecordedRun, key: str, style: int, name: str = "") -> Line:
    """A key of one run against rounds."""
    known = [(float(row["round"]), value) for row in run.rows if (value := number(row, key)) is not None]
    x, y = [place for place, _ in known], [value for _, value in known]
    return Line(name or describe_key(key).label, style, x, y, [cell(key, value) for value in y])
