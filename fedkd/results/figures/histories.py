"""Figures of what ``simulate`` returned: one History, or those of several seeds, or groups of seeds on top of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedkd.base.errors import InputError
from fedkd.results.curves import Curve, curve_of, headline_of
from fedkd.results.figures.convergence import picture_of
from fedkd.results.figures.looks import look_of
from fedkd.results.figures.panels import Drawing
from fedkd.results.figures.picture import Picture
from fedkd.results.history import History


def plot_histories(
    groups: Mapping[str, History | Mapping[int, History]],
    metric: str = "accuracy",
    x: str | Sequence[str] = "rounds",
    *,
    target: float | None = None,
    title: str = "",
    style: str = "",
    width: str | float = "",
) -> Picture:
    """Draw a line for each of these by its name; that of several seeds is their mean, with a 95 % band.

    Args:
        groups: name -> a History, or Histories by seed.
        metric: the key of a row.
        x: "rounds", "bytes", "seconds" or "simulated_seconds": a panel; or a list of them.
        target: a value of the metric: a line, and a mark where each line first reaches it.
        title: above the figure.
        style: as a venue prints: "neurips", "icml" or "ieee".
        width: "column", "page" or a number of inches.

    Returns:
        a matplotlib Figure, made without pyplot: a notebook shows it, ``savefig`` writes it.

    Raises:
        InputError: there is no such x, style or width, or the metric was never measured.
    """
    if not isinstance(groups, Mapping) or not groups:
        raise InputError(f"give Histories by name, as {{'fedmd': histories}}; got {groups!r:.60}")
    drawing = Drawing(metric, (x,) if isinstance(x, str) else tuple(x), target, title, look_of(style, width))
    return picture_of([_curve(name, group, metric) for name, group in groups.items()], drawing)


def _curve(name: str, group: History | Mapping[int, History], metric: str) -> Curve:
    by_seed = {0: group} if isinstance(group, History) else dict(group)
    if not by_seed or not all(isinstance(each, History) for each in by_seed.values()):
        raise InputError(f"{name}: give a History, or Histories by seed; got {group!r:.60}")
    tables = [history.metrics for history in by_seed.values()]
    whose = tuple(dict.fromkeys(map(headline_of, tables))) if metric == "accuracy" else ()
    return curve_of(name, list(by_seed), tables, metric, whose)
