"""Panels of lines against rounds, as several figures have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedkd.results.figures.style import COLOURS, MARKERS
from fedkd.results.row_keys import describe_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A line that has an axis for itself gives it its colour.
LEFT: dict[str, Any] = {"color": COLOURS[0], "linestyle": "-", "linewidth": 1.8}
RIGHT: dict[str, Any] = {"color": COLOURS[1], "linestyle": "--", "linewidth": 1.8}


def measured(rows: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    """The rows that have this number."""
    return [row for row in rows if row.get(key) is not None]


def plot_line(axis: Axes, rows: Sequence[Mapping[str, Any]], key: str, **style: Any) -> None:
    """Draw a number against rounds, where it was measured; of one point a marker, as there is no line."""
    having = measured(rows, key)
    marker = MARKERS[0] if len(having) == 1 else ""
    axis.plot([row["round"] for row in having], [row[key] for row in having], marker=marker, **style)


def second_axis(axis: Axes, name: str) -> Axes:
    """A second vertical axis, on the right."""
    beside = axis.twinx()
    beside.spines.right.set_visible(True)
    beside.set_ylabel(name, color=RIGHT["color"])
    return beside


def finish_panel(axis: Axes, *beside: Axes) -> None:
    """Rounds, grid, and under the panel a legend of the lines of all its axes."""
    from matplotlib.ticker import MaxNLocator

    axis.set_xlabel(describe_key("round").axis)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(color="#dddddd", linewidth=0.6)
    lines = [line for each in (axis, *beside) for line in each.get_lines() if not str(line.get_label()).startswith("_")]
    names = [str(line.get_label()) for line in lines]
    axis.legend(lines, names, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, handlelength=2.6)
