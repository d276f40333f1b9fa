"""The legend under a figure: in as many columns as fit, long labels in several rows, the figure as much higher."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

MOST_COLUMNS = 6
#: Inches that stay free at both sides together, and above.
MARGIN = 0.12


def add_legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Put a legend below all panels, for which the figure grows; nothing of it is cut or lies on data."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer, room = FigureCanvasAgg(figure).get_renderer(), figure.get_figwidth() - MARGIN
    letters = max(map(len, labels))
    for columns in range(min(MOST_COLUMNS, len(labels)), 0, -1):
        rows = list(labels)
        while True:
            legend = figure.legend(
                handles, rows, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.4
            )
            size = legend.get_window_extent(renderer)
            if size.width / figure.dpi <= room:
                figure.set_figheight(figure.get_figheight() + size.height / figure.dpi + MARGIN)
                return
            legend.remove()
            if columns > 1 or letters <= 8:
                break
            letters -= max(1, letters // 10)
            rows = ["\n".join(wrap(label, letters)) for label in labels]
