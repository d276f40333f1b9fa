"""The figure of convergence: a metric of several runs against rounds, bytes and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import InputError
from fedkd.results.curves import Curve, accuracy_name, curve, headline, is_share, measures
from fedkd.results.figures.style import COLOURS, LINES, MARKERS, save_figure, styled_figure
from fedkd.results.recorded import RecordedRun, Seeds, check_runs, group_seeds
from fedkd.results.row_keys import describe_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 11.0
"""Of the figure of convergence, in inches."""
LONGEST_LABEL = 100
"""Letters in a row of a legend."""


def convergence(runs: Sequence[RecordedRun], path: str | Path, *, metric: str = "accuracy") -> list[Path]:
    """Draw accuracy against rounds, uploaded bytes and seconds as .png and .svg (and .pdf if asked); gives the files.

    Seeds of one experiment become their mean with a 95 % Student-t band. Raises InputError for another file type.
    """
    check_runs(runs)
    path = Path(path)
    formats = list(dict.fromkeys([path.suffix or ".png", ".png", ".svg"]))
    if formats[0] not in (".png", ".svg", ".pdf"):
        raise InputError(f"cannot write a figure as {path.name}: use .png, .svg or .pdf")
    with styled_figure(WIDTH, 3.7) as figure:
        draw_convergence(figure, group_seeds(runs), metric)
        return save_figure(figure, path, formats)


def draw_convergence(figure: Figure, groups: Sequence[Seeds], metric: str = "accuracy") -> None:
    """The three panels of ``convergence`` and their legend, for which the figure grows."""
    curves = [curve(group, metric) for group in groups]
    labels = _labels(groups, curves, metric)
    axes = figure.subplots(1, 3, sharey=True)
    for index, line in enumerate(curves):
        style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index % len(LINES)]}
        style |= {"marker": MARKERS[index % len(MARKERS)], "markevery": max(1, line.mean.size // 8)}
        for axis, x in zip(axes, (line.rounds, line.uploaded, line.seconds), strict=True):
            _draw(axis, x, line, labels[index], style, most=1.0 if is_share(metric) else np.inf)
    _label_axes(axes, curves, accuracy_name(groups, metric), percent=is_share(metric))
    if len(curves) > 1 or curves[0].seeds > 1:
        columns, height = _legend_room(labels)
        figure.set_size_inches(WIDTH, 3.7 + height)
        figure.legend(axes[0].get_legend_handles_labels()[0], labels, loc="outside lower center", ncols=columns)


def _labels(groups: Sequence[Seeds], curves: Sequence[Curve], metric: str) -> list[str]:
    """The legend: each line's name, its seeds, and whose accuracy it is where that differs from line to line."""
    differ = len(measures(groups, metric)) > 1
    labels = []
    for group, line in zip(groups, curves, strict=True):
        seeds = "" if line.seeds == 1 else f" (mean of {line.seeds} seeds, 95 % band)"
        whose = f": {headline(group.runs[0])}" if differ else ""
        labels.append("\n".join(wrap(f"{line.label}{whose}{seeds}", LONGEST_LABEL)))
    return labels


def _legend_room(labels: Sequence[str]) -> tuple[int, float]:
    """In how many columns the legend fits under the axes, and how many inches its rows beyond the first take."""
    longest = max((len(row) for label in labels for row in label.splitlines()), default=1)
    columns = max(1, min(4, len(labels), int(WIDTH / (0.075 * longest + 0.7))))
    rows = [max(label.count("\n") + 1 for label in labels[start::columns]) for start in range(columns)]
    return columns, 0.17 * (max(rows) * -(-len(labels) // columns) - 1)


def _draw(axis: Axes, x: NDArray[np.float64], line: Curve, label: str, style: dict[str, Any], *, most: float) -> None:
    axis.plot(x, line.mean, label=label, linewidth=1.6, markersize=4, **style)
    if line.seeds > 1:
        least = 0.0 if np.isfinite(most) else -np.inf  # a share lies between 0 and 1, whatever a t interval says
        low, high = np.clip(line.mean - line.half_width, least, most), np.clip(line.mean + line.half_width, least, most)
        axis.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _label_axes(axes: Sequence[Axes], curves: Sequence[Curve], name: str, *, percent: bool) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

    by_round, by_bytes, by_time = axes
    by_round.set_ylabel(name)
    if percent:
        by_round.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    by_round.set_xlabel(describe_key("round").axis)
    by_round.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_bytes.set_xlabel("uploaded by all clients, cumulative (bytes, log scale)")
    sizes = np.concatenate([line.uploaded[np.isfinite(line.uploaded)] for line in curves])
    if sizes.size:
        by_bytes.set_xscale("log")
        wide = sizes.max() > 20 * sizes.min()  # then a label at each power of ten is enough, and more would overlap
        by_bytes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5), numticks=6))
        by_bytes.xaxis.set_major_formatter(EngFormatter(unit="B", sep=" "))
        by_bytes.xaxis.set_minor_formatter(NullFormatter())  # over less than a decade they would cover the major ones
    else:
        by_bytes.set_xticks([])
    silent = [line.label for line in curves if not np.isfinite(line.uploaded).any()]
    if silent:
        by_bytes.set_title(f"no uploads: {', '.join(silent)}", loc="right", color="#555555", fontsize=8)
    by_time.set_xlabel(describe_key("seconds").axis)
    for axis in axes:
        axis.grid(color="#dddddd", linewidth=0.6)
