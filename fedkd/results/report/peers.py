"""Peers: how each does, how far they agree, and what their ensemble is worth."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from fedkd.results.figures.peers import NAMED_PEERS, accuracies_of, has_peers, peer_names
from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.report.cells import capital, cell
from fedkd.results.report.chart import Axis, Line, line_chart
from fedkd.results.report.losses import plain_line
from fedkd.results.report.names import in_detail
from fedkd.results.report.parts import Figure, Panel, Section
from fedkd.results.report.series import axis_of, course, table_of
from fedkd.results.row_keys import describe_key

TOGETHER = ("ensemble_accuracy", "mean_peer_accuracy", "best_peer_accuracy")


def peers(groups: Sequence[Seeds]) -> Section:
    """The section, of runs whose clients or branches are compared with each other."""
    figures = [figure for more, run in in_detail(groups) if has_peers(run) for figure in _figures(run, more)]
    pairs = [(describe_key(key).label, describe_key(key).meaning) for key in (*TOGETHER, "agreement", "peer_divergence")]
    return Section("peers", "Peers", figures=figures, pairs=[(capital(a), b) for a, b in pairs] if figures else [])


def _figures(run: RecordedRun, more: str) -> list[Figure]:
    rounds, table = accuracies_of(run)
    together = [line for style, key in enumerate(TOGETHER) if (line := plain_line(run, key, style)).x]
    each = [
        Line(
            name,
            style,
            rounds.tolist(),
            values.tolist(),
            [cell("accuracy", v) if isfinite(v) else "none" for v in values.tolist()],
        )
        for style, (name, values) in enumerate(zip(peer_names(run), table, strict=True), start=len(together))
    ]
    lines = [*(together if len(each) > 1 else []), *(each if len(each) <= NAMED_PEERS else [])]
    figures = [_figure(f"Each peer, and all together{more}", lines, axis_of("accuracy"))]
    for key in ("agreement", "peer_divergence"):
        if (line := plain_line(run, key, 0)).x:
            label = describe_key(key).label
            figures.append(_figure(f"{capital(label)}{more}", [line], axis_of(key), key))
    return figures


def _figure(title: str, lines: Sequence[Line], axis: Axis, key: str = "accuracy") -> Figure:
    finding = f"{title}: " + "; ".join(course(line, key) for line in lines) + "."
    legend = [(line.style, line.name) for line in lines] if len(lines) > 1 else []
    return Figure(title, [Panel("", line_chart(lines, Axis("round", "round"), axis, finding))], table_of(title, lines), legend)
