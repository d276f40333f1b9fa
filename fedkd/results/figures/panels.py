"""Panels of curves: a metric against rounds, uploaded bytes, seconds, and what else the runs have recorded of their cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from fedkd.base.errors import InputError, unknown
from fedkd.results.curves import XS, Curve, Floats, accuracy_name, check_target, is_share, measures, reached
from fedkd.results.figures.legend import add_legend
from fedkd.results.figures.looks import PLAIN, Look
from fedkd.results.figures.style import line_style
from fedkd.results.row_keys import describe_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What stands below each horizontal axis: with room, and without.
NAMES = {
    "rounds": (describe_key("round").axis,) * 2,
    "bytes": ("uploaded by all clients, cumulative (bytes, log scale)", "uploaded, log scale"),
    "seconds": (describe_key("seconds").axis,) * 2,
    "cpu_seconds": (describe_key("cpu_seconds").axis,) * 2,
    "joules": (describe_key("joules").axis,) * 2,
    "simulated_seconds": (describe_key("simulated_seconds").axis,) * 2,
}
#: What not every run has -> why, and what to do about it.
MISSING = {
    "cpu_seconds": "recorded no CPU time: its clients were on other nodes, or its fedkd was older; take seconds",
    "joules": "measured no energy, and its report says why; take cpu_seconds",
    "simulated_seconds": "ran without a [clock]: leave it out, or take seconds",
}
GREY = "#555555"


@dataclass(frozen=True)
class Drawing:
    """What a figure of curves shows.

    Args:
        metric: the key of a row.
        xs: the panels in order, names of ``XS``; empty: all that every run has recorded, but for energy.
        target: a value of the metric: a line, and a mark where each curve first reaches it.
        title: above all panels.
        look: its sizes.
    """

    metric: str = "accuracy"
    xs: tuple[str, ...] = ()
    target: float | None = None
    title: str = ""
    look: Look = PLAIN

    def __post_init__(self) -> None:
        for x in self.xs:
            if x not in XS:
                raise unknown("x", str(x), XS)
        check_target(self.target, self.metric)

    def panels(self, curves: Sequence[Curve]) -> tuple[str, ...]:
        """The horizontal axes. Raises InputError for one that a run has not recorded."""
        without = {x: [line.label for line in curves if np.isnan(line.along(x)).any()] for x in MISSING}
        for x in self.xs:
            if without.get(x):
                raise InputError(f"x {x}: {without[x][0]} {MISSING[x]}")
        return self.xs or tuple(x for x in XS if x != "joules" and not without.get(x))

    def size(self, panels: int) -> tuple[float, float, int]:
        """Inches of width and height of so many panels without title and legend, and how many stand side by side."""
        look = self.look
        width = look.width or (look.column if panels == 1 else max(look.page, 0 if look.brief else panels * look.panel))
        rows = -(-panels // max(1, int(width / look.panel + 0.01)))
        beside = -(-panels // rows)
        height = min(2.2, max(1.5, 0.62 * width / beside)) if look.brief else 3.5
        return width, rows * height, beside


def draw_curves(figure: Figure, curves: Sequence[Curve], drawing: Drawing) -> None:
    """Draw the panels and what stands around them; gives the figure its size."""
    xs = drawing.panels(curves)
    width, height, beside = drawing.size(len(xs))
    figure.set_size_inches(width, height)
    axes = figure.subplots(-(-len(xs) // beside), beside, sharey=True, squeeze=False).flatten()
    for place, x in enumerate(xs):
        _draw_panel(axes[place], x, curves, drawing, width / beside)
        if place % beside == 0:
            axes[place].set_ylabel(_metric_name(curves, drawing, height / (len(axes) // beside)))
    for spare in axes[len(xs) :]:
        spare.remove()
    _end_where_the_metric_does(axes[0], drawing.metric)
    for place, x in enumerate(xs if drawing.target is not None else ()):
        _mark_target(axes[place], x, curves, drawing)
    if drawing.title:
        title, points = _rows(drawing.title, width, drawing.look.letters + 1), drawing.look.letters + 1
        figure.set_figheight(figure.get_figheight() + (title.count("\n") + 1) * 1.4 * points / 72)
        figure.suptitle(title, fontsize=points)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1 or (len(curves[0].seeds) > 1 and not drawing.look.brief):
        add_legend(figure, handles, labels)


def line_labels(curves: Sequence[Curve], *, brief: bool) -> list[str]:
    """Each line's name, whose accuracy it is where that differs from line to line and, unless ``brief``, its seeds."""
    differ = len(measures(curves)) > 1
    labels = []
    for line in curves:
        seeds = "" if len(line.seeds) == 1 or brief else f" (mean of {len(line.seeds)} seeds, 95 % band)"
        whose = f": {' or '.join(line.whose)}" if differ else ""
        labels.append(f"{line.label}{whose}{seeds}")
    return labels


def _metric_name(curves: Sequence[Curve], drawing: Drawing, inches: float) -> str:
    """Of the vertical axis, in as many rows as it takes."""
    if not drawing.look.brief:
        return accuracy_name(curves, drawing.metric)
    return _rows(describe_key(drawing.metric).axis, inches, drawing.look.letters)


def _rows(text: str, inches: float, points: float) -> str:
    """Text in rows of about so many inches, for a letter is about half as wide as it is high."""
    return "\n".join(wrap(text, max(10, int(inches * 72 / (0.55 * points)))))


def _draw_panel(axis: Axes, x: str, curves: Sequence[Curve], drawing: Drawing, inches: float) -> None:
    look, share = drawing.look, is_share(drawing.metric)
    for index, (line, label) in enumerate(zip(curves, line_labels(curves, brief=look.brief), strict=True)):
        style, step = line_style(index), max(1, line.mean.size // 8)
        # Lines that lie on each other have their markers at different rounds.
        style |= {"markevery": (index % step, step), "linewidth": 1.1 if look.brief else 1.6}
        clip = not (share and np.isfinite(line.along(x)).any())  # else half a marker at 100 % would be cut off
        axis.plot(line.along(x), line.mean, label=label, markersize=3.2 if look.brief else 4, clip_on=clip, **style)
        if len(line.seeds) > 1:
            least, most = (0.0, 1.0) if share else (-np.inf, np.inf)  # whatever a t interval says
            low, high = (np.clip(line.mean + side * line.half_width, least, most) for side in (-1, 1))
            axis.fill_between(line.along(x), low, high, color=style["color"], alpha=0.18, linewidth=0)
    axis.set_xlabel(NAMES[x][look.brief])
    axis.grid(color="#dddddd", linewidth=0.6)
    _place_ticks(axis, x, curves, most=max(2, int(inches / (0.06 * look.small))))
    silent = [line.label for line in curves if not np.isfinite(line.uploaded).any()]
    if x == "bytes" and silent:
        title = _rows(f"no uploads: {', '.join(silent)}", inches, look.small)
        axis.set_title(title, loc="right", color=GREY, fontsize=look.small - 1)


def _place_ticks(axis: Axes, x: str, curves: Sequence[Curve], *, most: int) -> None:
    from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, NullFormatter

    if x != "bytes":
        axis.xaxis.set_major_locator(MaxNLocator(nbins=most, integer=x == "rounds", min_n_ticks=1))
        return
    sizes = np.concatenate([line.uploaded[np.isfinite(line.uploaded)] for line in curves])
    if not sizes.size:
        axis.set_xticks([])
        return
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(byte_ticks(float(sizes.min()), float(sizes.max()), most)))
    axis.xaxis.set_major_formatter(EngFormatter(unit="B", sep=" "))
    axis.xaxis.set_minor_formatter(NullFormatter())  # over less than a decade they would cover the major ones


def byte_ticks(low: float, high: float, most: int) -> list[float]:
    """At most so many sizes to name between two: powers of ten, or 1, 2 and 5 times these, or whatever lies between.

    >>> byte_ticks(9e2, 2e9, 4), byte_ticks(30, 600, 6), byte_ticks(1.1e6, 1.4e6, 3)
    ([1000.0, 100000.0, 10000000.0, 1000000000.0], [50.0, 100.0, 200.0, 500.0], [1200000.0, 1350000.0])
    >>> byte_ticks(2200, 9800, 6)
    [3000.0, 4000.0, 6000.0, 8000.0]
    """
    from matplotlib.ticker import MaxNLocator

    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for factors in ((1,), (1, 2, 5), (1, 2, 3, 4, 6, 8)):
        found = [float(factor * 10.0**power) for power in powers for factor in factors]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) > 2 or (len(found) == 2 and factors != (1,)):
            return found[:: -(-len(found) // most)]
    between = [float(tick) for tick in MaxNLocator(max(1, most - 1)).tick_values(low, high) if low <= tick <= high]
    return between or [high]


def _end_where_the_metric_does(axis: Axes, metric: str) -> None:
    """No accuracy of 105 %: an axis of shares ends at none and at all of them."""
    from matplotlib.ticker import PercentFormatter

    if is_share(metric):
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, 0.0), min(high, 1.0))


def _mark_target(axis: Axes, x: str, curves: Sequence[Curve], drawing: Drawing) -> None:
    """A line at the target, and a drop line to the axis from where each curve first reaches it."""
    target = drawing.target or 0.0
    named = f"target {100 * target:g} %" if is_share(drawing.metric) else f"target {target:g}"
    axis.axhline(target, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1.5, label=named)
    low, high = axis.get_ylim()
    low, high = min(low, target), max(high, target)
    axis.set_ylim(low, high)
    for index, line in enumerate(curves):
        if (place := reached(line, drawing.metric, target)) is None:
            continue
        at, colour, size = line.along(x)[place], line_style(index)["color"], 5 if drawing.look.brief else 7
        axis.vlines(at, low, line.mean[place], color=colour, linewidth=0.8, linestyle=":")
        axis.plot([at], [line.mean[place]], "o", markersize=size, markerfacecolor="none", markeredgecolor=colour, clip_on=False)


def spent_until(line: Curve, drawing: Drawing) -> dict[str, float] | None:
    """What it took the mean over the seeds to reach the target, by the names of ``XS``; None where it never did."""
    place = None if drawing.target is None else reached(line, drawing.metric, drawing.target)
    if place is None:
        return None
    at: dict[str, Floats] = {x: line.along(x) for x in XS}
    return {x: float(values[place]) for x, values in at.items() if np.isfinite(values[place])}
