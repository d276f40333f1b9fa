"""The figures of a run. Drawn without pyplot, so no state of matplotlib's outlives a call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import InputError
from fedkd.results.curves import Curve, accuracy_name, curve, headline, is_share, measures
from fedkd.results.recorded import RecordedRun, Seeds, check_runs, group_seeds
from fedkd.results.row_keys import describe_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

# Okabe and Ito's palette: told apart with any colour vision. Styles and markers tell the lines apart in grey as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH = 11.0
"""Of the figure of convergence, in inches."""
LONGEST_LABEL = 100
"""Letters in a row of a legend."""
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be named "$\\"
    "svg.fonttype": "path",  # glyphs travel with the file
    "pdf.fonttype": 42,
    "svg.hashsalt": "fedkd",  # the same figure gives the same file
}


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


def _write_counts(axis: Axes, counts: NDArray[np.int64]) -> None:
    for (row, client), count in np.ndenumerate(counts):
        colour = "white" if count > 0.6 * counts.max() else "#222222" if count else "#aaaaaa"
        axis.text(client, row, str(count), ha="center", va="center", fontsize=7, color=colour)


def drawn_name(name: str, most: int = 30) -> str:
    """A user's name as a figure can show it: in one line, not too long, and never a name that legends leave out.

    >>> drawn_name("a\\nb"), drawn_name("x" * 40), drawn_name("_private")
    ('a b', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxx…', ' _private')
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(name).split()))
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return f" {text}" if text.startswith("_") else text


@contextmanager
def styled_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches in fedkd's style."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path, suffixes: Sequence[str]) -> list[Path]:
    """Write the figure in each of these formats; the same figure gives the same files. Gives their paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    no_dates: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".svg": {"Date": None},
        ".pdf": {"CreationDate": None},
    }
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once: the same in every format
    files = [path.with_suffix(suffix) for suffix in suffixes]
    for file in files:
        figure.savefig(file, dpi=150, metadata=no_dates[file.suffix])
    return files
