"""Figures of rows that are at hand, in no run's directory: a line for each group of seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedkd.results.curves import Curve, Rows, curve_of, headline_of
from fedkd.results.figures.convergence import picture_of
from fedkd.results.figures.looks import look_of
from fedkd.results.figures.panels import Drawing
from fedkd.results.figures.picture import Picture


def plot_rows(
    groups: Mapping[str, Mapping[int, Rows]],
    metric: str,
    x: str | Sequence[str],
    *,
    target: float | None = None,
    title: str = "",
    style: str = "",
    width: str | float = "",
) -> Picture:
    """Draw a line for each group by its name: the rows of one seed, or of several, their mean with a 95 % band.

    Args:
        groups: name -> seed -> rows.
        metric: the key of a row.
        x: a panel, one of ``XS``; or a list of them.
        target: a value of the metric: a line, and a mark where each line first reaches it.
        title: above the figure.
        style: as a venue prints: "neurips", "icml" or "ieee".
        width: "column", "page" or a number of inches.

    Raises:
        InputError: there is no such x, style or width, or the metric was never measured.
    """
    drawing = Drawing(metric, (x,) if isinstance(x, str) else tuple(x), target, title, look_of(style, width))
    return picture_of([_curve(name, by_seed, metric) for name, by_seed in groups.items()], drawing)


def _curve(name: str, by_seed: Mapping[int, Rows], metric: str) -> Curve:
    whose = tuple(dict.fromkeys(map(headline_of, by_seed.values()))) if metric == "accuracy" else ()
    return curve_of(name, list(by_seed), list(by_seed.values()), metric, whose)
