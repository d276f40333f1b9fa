"""Convergence: a metric of several runs against rounds, bytes and seconds, as files or a figure; the numbers behind it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedkd.base.errors import InputError
from fedkd.results.curves import XS, Curve, curve
from fedkd.results.figures.panels import Drawing, draw_curves
from fedkd.results.figures.picture import PRINT, SCREEN, Picture, lay_out, save_figure, styled_figure
from fedkd.results.files import write_atomically
from fedkd.results.recorded import RecordedRun, Seeds, check_runs, group_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What a file of figures may be; the first two are always written.
FORMATS = (".png", ".svg", ".pdf")


def convergence(
    runs: Sequence[RecordedRun],
    path: str | Path,
    drawing: Drawing | None = None,
    *,
    pdf: bool = False,
    data: bool = False,
) -> list[Path]:
    """Draw accuracy against rounds, uploaded bytes and seconds as .png and .svg (and .pdf if asked); gives the files.

    Seeds of one experiment become their mean with a 95 % Student-t band. With ``data`` a table of what is drawn, .csv, is
    written beside them. Raises InputError for another file type.
    """
    check_runs(runs)
    path, drawing = Path(path), drawing or Drawing()
    formats = list(dict.fromkeys([path.suffix or ".png", ".png", ".svg", *[".pdf"] * pdf]))
    if formats[0] not in FORMATS:
        raise InputError(f"cannot write a figure as {path.name}: use .png, .svg or .pdf")
    groups = group_seeds(runs)
    with styled_figure(1, 1, drawing.look.settings()) as figure:
        draw_convergence(figure, groups, drawing)
        files = save_figure(figure, path, formats, dpi=PRINT if drawing.look.brief else SCREEN)
    if data:
        files.append(path.with_suffix(".csv"))
        write_atomically(files[-1], table([curve(group, drawing.metric) for group in groups], drawing.metric))
    return files


def picture_of(curves: Sequence[Curve], drawing: Drawing) -> Picture:
    """The panels of these curves as a matplotlib Figure. Raises InputError where none of them has a point."""
    if not any(line.rounds.size for line in curves):
        raise InputError(f"{drawing.metric!r} was never measured: there is nothing to draw")
    with styled_figure(1, 1, drawing.look.settings()) as figure:
        draw_curves(figure, curves, drawing)
        lay_out(figure)
        return figure


def draw_convergence(figure: Figure, groups: Sequence[Seeds], drawing: Drawing | None = None) -> None:
    """The panels of ``convergence`` and their legend; gives the figure its size."""
    drawing = drawing or Drawing()
    draw_curves(figure, [curve(group, drawing.metric) for group in groups], drawing)


def table(curves: Sequence[Curve], metric: str) -> str:
    """What is drawn as CSV, a line for each curve, round and seed: the seed's own value, and beside it what the curve shows.

    Rounds, bytes and seconds are where the curve has the point: means over the seeds. Empty: there is no such number.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["line", "metric", *XS, "seed", "value", "seeds", "mean", "low", "high"])
    for line in curves:
        low, high = line.mean - line.half_width, line.mean + line.half_width
        for place in range(len(line.rounds)):
            at = [line.along(x)[place] for x in XS]
            shown = [line.mean[place], low[place], high[place]]
            for seed, values in zip(line.seeds, line.values, strict=True):
                numbers = [*at, seed, values[place], len(line.seeds), *shown]
                rows.writerow([line.label, metric, *(_number(number) for number in numbers)])
    return text.getvalue()


def _number(value: float) -> str:
    """Exact, and whole numbers without a point.

    >>> _number(3.0), _number(0.1), _number(float("nan"))
    ('3', '0.1', '')
    """
    if not np.isfinite(value):
        return ""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
