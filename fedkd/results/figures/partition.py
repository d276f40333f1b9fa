"""The figure of a partition: who holds what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedkd.results.figures.picture import styled_figure
from fedkd.results.figures.style import drawn_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor


def partition(
    table: Tensor, classes: Sequence[str], path: str | Path, *, unlabelled: Sequence[int] = (), unheld: int = 0
) -> None:
    """Draw who holds what: a heat map of counts, classes by clients, with each client's total above it.

    The counts stand in the cells as long as they can be read there.

    Args:
        table: counts, (clients, classes).
        classes: their names.
        path: the figure's file.
        unlabelled: each client's count of samples without a label; they get a row of their own if there are any.
        unheld: how many samples are held by nobody; the title says so.
    """
    from matplotlib.ticker import MaxNLocator

    counts, names = np.asarray(table.tolist(), dtype=np.int64).T, list(classes)  # (classes, clients)
    if any(unlabelled):
        counts, names = np.vstack([counts, unlabelled]), [*names, "no label"]
    rows, clients = counts.shape
    title = f"{counts.sum():,} samples of {len(classes)} classes at {clients:,} clients"
    if unheld:
        title += f"; {unheld:,} more are held by nobody"
    width, height = float(np.clip(0.5 * clients + 2.5, 6, 13)), float(np.clip(0.32 * rows + 2.2, 3.5, 10))
    with styled_figure(width, height) as figure:
        grid = figure.add_gridspec(2, 2, height_ratios=(1, max(3.0, rows / 3)), width_ratios=(60, 1))
        cells = figure.add_subplot(grid[1, 0])
        totals = figure.add_subplot(grid[0, 0], sharex=cells)
        image = cells.imshow(counts, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
        if clients <= 20 and rows <= 30:
            _write_counts(cells, counts)
        cells.set_xlabel("client")
        cells.set_ylabel("class")
        cells.xaxis.set_major_locator(MaxNLocator(nbins=20, integer=True, steps=[1, 2, 5, 10]))
        if rows <= 30:
            cells.set_yticks(range(rows), [drawn_name(name) for name in names])
        cells.spines[:].set_visible(False)
        if clients <= 100:
            totals.bar(range(clients), counts.sum(axis=0), color="#6baed6", width=0.85)
        else:  # one outline: thousands of bars take seconds to draw
            totals.stairs(counts.sum(axis=0), np.arange(clients + 1) - 0.5, fill=True, color="#6baed6")
        totals.set_ylabel("samples")
        totals.tick_params(labelbottom=False)
        totals.set_title(title, loc="left")
        figure.colorbar(image, cax=figure.add_subplot(grid[1, 1]), label="samples")
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _write_counts(axis: Axes, counts: NDArray[np.int64]) -> None:
    for (row, client), count in np.ndenumerate(counts):
        colour = "white" if count > 0.6 * counts.max() else "#222222" if count else "#aaaaaa"
        axis.text(client, row, str(count), ha="center", va="center", fontsize=7, color=colour)
