"""The figure of a run that learns representations: what its encoder makes of test samples, and how good that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedkd.results.figures.lines import LEFT, RIGHT, finish_panel, measured, plot_line, second_axis
from fedkd.results.figures.picture import save_figure, styled_figure
from fedkd.results.figures.style import COLOURS, LINES, MARKERS, drawn_name
from fedkd.results.recorded import RecordedRun
from fedkd.results.representations import Representations, read_representations, representation_files
from fedkd.results.row_keys import describe_key, find_entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec

Floats = NDArray[np.float64]

#: Paul Tol's muted palette, and black: ten classes are told apart with any colour vision. Shapes tell them apart in grey.
OF_CLASSES = ("#332288", "#CC6677", "#117733", "#88CCEE", "#882255", "#999933", "#000000", "#44AA99", "#DDCC77", "#AA4499")
#: At most so many rounds are pictured: the first, the last, and others evenly between.
PICTURED = 6
#: More classes than this have no legend: nobody could tell them apart.
NAMED_CLASSES = 16
#: Fewer points than this make no map of neighbourhoods.
NEIGHBOURHOODS = 5
#: The lines of the panel on accuracies; beside them those of a share of the labels.
ACCURACIES = ("probe_accuracy", "knn_accuracy", "client_probe_accuracy")
FEW_LABELS = ("probe_<share>_percent_accuracy", "fine_tuned_<share>_percent_accuracy")


def has_representations(run: RecordedRun) -> bool:
    """Whether the run has kept or logged anything for ``representation`` to draw."""
    return bool(representation_files(run.path) or _panels(run))


def representation(run: RecordedRun, path: str | Path) -> list[Path]:
    """Draw a run that ``has_representations``, as .png and .svg; gives the files.

    Above, if the run kept features: test samples in the plane of the first two principal components of a round's features. Each
    round's encoder has a plane of its own; each is scaled to unit spread and turned (orthogonal Procrustes, reflection allowed)
    onto the round before, so that the picture moves only as far as the encoder does. Beside them t-SNE of the last round.
    Below, against rounds: accuracies, alignment and uniformity, likeness of the clients' encoders, whichever were logged.
    """
    kept, panels = representation_files(run.path), _panels(run)
    shown = [list(kept)[position] for position in evenly(len(kept), PICTURED)]
    tables = [read_representations(kept[round]) for round in shown]
    cells = len(shown) + 2 if shown else 0  # t-SNE and the legend
    rows = ceil(cells / 4)
    with styled_figure(width=12.0 if shown else 4.3 * len(panels), height=2.9 * rows + (3.6 if panels else 0.0)) as figure:
        heights = [2.9 * rows] * bool(rows) + [3.6] * bool(panels)
        grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        if shown:
            _draw_maps(figure, grid[0].subgridspec(rows, ceil(cells / rows)), shown, tables, run.seed)
        if panels:
            below = grid[-1].subgridspec(1, len(panels), wspace=0.06)
            for position, draw in enumerate(panels):
                draw(run, figure.add_subplot(below[position]))
        return save_figure(figure, Path(path), [".png", ".svg"])


def evenly(count: int, most: int) -> list[int]:
    """Positions of at most so many of ``count`` things: the first, the last, and evenly between.

    >>> evenly(3, 6), evenly(11, 6), evenly(0, 6)
    ([0, 1, 2], [0, 2, 4, 6, 8, 10], [])
    """
    if count <= most:
        return list(range(count))
    return [round(step * (count - 1) / (most - 1)) for step in range(most)]


def principal_plane(features: Floats) -> tuple[Floats, float]:
    """Features (N, D) in the plane of their first two principal components, (N, 2) of unit spread; the plane's variance share.

    >>> places, share = principal_plane(np.array([[0.0, 1.0], [0.0, -1.0], [3.0, 0.0], [-3.0, 0.0]]))
    >>> np.abs(places).round(3).tolist(), share
    ([[0.0, 0.447], [0.0, 0.447], [1.342, 0.0], [1.342, 0.0]], 1.0)
    """
    centred = features - features.mean(axis=0)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(features), 2))
    places[:, : min(2, len(strengths))] = (left * strengths)[:, :2]
    spread = np.sqrt(np.square(places).sum() / len(places))
    total = np.square(strengths).sum()
    return places / (spread or 1.0), float(np.square(strengths[:2]).sum() / total) if total else 0.0


def turned_onto(places: Floats, target: Floats) -> Floats:
    """Centred places (N, 2) rotated or mirrored to lie as near the target (N, 2) as they can: orthogonal Procrustes.

    >>> turned_onto(np.array([[0.0, 1.0], [0.0, -1.0]]), np.array([[2.0, 0.0], [-2.0, 0.0]])).round(6).tolist()
    [[1.0, 0.0], [-1.0, 0.0]]
    """
    left, _, right = np.linalg.svd(places.T @ target)
    turned: Floats = places @ (left @ right)
    return turned


def neighbour_map(features: Floats, seed: int) -> Floats:
    """Features (N, D), N >= 5, laid out by t-SNE, (N, 2). van der Maaten and Hinton, JMLR 2008."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    places: Floats = TSNE(perplexity=perplexity, init="pca", random_state=seed % 2**32).fit_transform(features)
    return places


def _draw_maps(
    figure: Figure, grid: GridSpecFromSubplotSpec, rounds: Sequence[int], tables: Sequence[Representations], seed: int
) -> None:
    cells = iter(grid)
    axes = [figure.add_subplot(next(cells)) for _ in rounds]
    before: Floats | None = None
    for axis, round, table in zip(axes, rounds, tables, strict=True):
        places, share = principal_plane(table.features)
        before = places = places if before is None else turned_onto(places, before)
        _scatter(axis, places, table)
        axis.set_title(f"Round {round}", loc="left")
        axis.set_title(f"PCA, {share:.0%} of variance".replace("%", " %"), loc="right", fontsize=8, color="#555555")
    last = tables[-1]
    if len(last.features) >= NEIGHBOURHOODS:
        axis = figure.add_subplot(next(cells))
        _scatter(axis, neighbour_map(last.features, seed), last)
        axis.set_title(f"Round {rounds[-1]}", loc="left")
        axis.set_title("t-SNE", loc="right", fontsize=8, color="#555555")
    named = figure.add_subplot(next(cells))
    named.set_axis_off()
    lines, names = axes[0].get_legend_handles_labels()
    if len(names) <= NAMED_CLASSES:
        named.legend(lines, names, loc="center left", markerscale=2.2, title="class", alignment="left")


def _scatter(axis: Axes, places: Floats, table: Representations) -> None:
    """One mark a sample: its colour and shape together tell the class."""
    for label, name in enumerate(table.classes):
        of_class = places[table.labels == label]
        style: dict[str, Any] = {"color": OF_CLASSES[label % len(OF_CLASSES)], "marker": MARKERS[label % len(MARKERS)]}
        # Drawn as one image: thousands of marks would make the report heavy.
        axis.scatter(
            of_class[:, 0], of_class[:, 1], s=14, alpha=0.8, linewidths=0, label=drawn_name(name), rasterized=True, **style
        )
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_aspect("equal", adjustable="datalim")
    axis.spines[:].set_visible(True)
    axis.spines[:].set_color("#bbbbbb")


def _panels(run: RecordedRun) -> list[Callable[[RecordedRun, Axes], None]]:
    """The panels of lines for which the run logged something."""
    drawn: list[Callable[[RecordedRun, Axes], None]] = [_draw_accuracies] if measured(run.rows, "knn_accuracy") else []
    drawn += [_draw_sphere] if measured(run.rows, "alignment") else []
    return drawn + ([_draw_likeness] if measured(run.rows, "client_cka") else [])


def _draw_accuracies(run: RecordedRun, axis: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    for key, colour, line in zip(_accuracies(run.rows), cycle(COLOURS), cycle(LINES)):
        plot_line(axis, run.rows, key, label=describe_key(key).short, color=colour, linestyle=line, linewidth=1.8)
    axis.set_title("How good the features are", loc="left")
    axis.set_ylabel(describe_key("accuracy").axis)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    finish_panel(axis)


def _accuracies(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of the accuracies that were logged."""
    keys = dict.fromkeys(key for row in rows for key in row)
    few = [key for key in keys if (entry := find_entry(key)) and entry.key in FEW_LABELS]
    return [key for key in (*ACCURACIES, *few) if measured(rows, key)]


def _draw_sphere(run: RecordedRun, axis: Axes) -> None:
    plot_line(axis, run.rows, "alignment", label=describe_key("alignment").short, **LEFT)
    axis.set_title("Features on the unit sphere", loc="left")
    axis.set_ylabel(describe_key("alignment").axis, color=LEFT["color"])
    beside = second_axis(axis, describe_key("uniformity").axis)
    plot_line(beside, run.rows, "uniformity", label=describe_key("uniformity").short, **RIGHT)
    finish_panel(axis, beside)


def _draw_likeness(run: RecordedRun, axis: Axes) -> None:
    plot_line(axis, run.rows, "client_cka", label=describe_key("client_cka").short, **(LEFT | {"color": COLOURS[2]}))
    axis.set_title("Clients' encoders after local training", loc="left")
    axis.set_ylabel(describe_key("client_cka").axis)
    axis.set_ylim(0, 1)
    finish_panel(axis)
