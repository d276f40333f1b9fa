"""Encoders: how good their features are, round by round, and what test samples look like to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedkd.results.figures.representation import (
    ACCURACIES,
    FEW_LABELS,
    NAMED_CLASSES,
    NEIGHBOURHOODS,
    PICTURED,
    Floats,
    evenly,
    neighbour_map,
    principal_plane,
    turned_onto,
)
from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.report.cells import capital
from fedkd.results.report.chart import STYLES, Axis, Line, line_chart
from fedkd.results.report.losses import plain_line
from fedkd.results.report.names import in_detail
from fedkd.results.report.parts import Figure, Panel, Section, Table
from fedkd.results.report.series import axis_of, course, table_of
from fedkd.results.representations import Representations, read_representations, representation_files
from fedkd.results.row_keys import describe_key, find_entry

if TYPE_CHECKING:
    from markupsafe import Markup

#: Numbers on encoders beside accuracies, each with an axis of its own.
OTHERS = ("alignment", "uniformity", "client_cka")
#: So many samples are mapped: more would make the page heavy.
MAPPED = 300


def representations(groups: Sequence[Seeds]) -> Section:
    """The section, of runs that learn representations."""
    figures: list[Figure] = []
    keys: dict[str, None] = {}
    for more, run in in_detail(groups):
        figures += _maps(run, more)
        accuracies = [key for key in _written(run) if key in ACCURACIES or _of_few_labels(key)]
        if any(key in ACCURACIES for key in accuracies):
            figures.append(
                _chart(f"Accuracy on frozen features{more}", [plain_line(run, k, s) for s, k in enumerate(accuracies)])
            )
            keys |= dict.fromkeys(accuracies)
        for key in (key for key in OTHERS if key in _written(run)):
            figures.append(_chart(f"{capital(describe_key(key).label)}{more}", [plain_line(run, key, 0)], key))
            keys |= {key: None}
    pairs = [(capital(describe_key(key).short), describe_key(key).meaning) for key in keys]
    return Section("representations", "Representations", figures=figures, pairs=pairs)


def _written(run: RecordedRun) -> list[str]:
    return list(dict.fromkeys(key for row in run.rows for key, value in row.items() if value is not None))


def _of_few_labels(key: str) -> bool:
    return (entry := find_entry(key)) is not None and entry.key in FEW_LABELS


def _chart(title: str, lines: Sequence[Line], key: str = "accuracy") -> Figure:
    finding = f"{title}: " + "; ".join(course(line, key) for line in lines) + "."
    legend = [(line.style, line.name) for line in lines] if len(lines) > 1 else []
    drawing = line_chart(lines, Axis("round", "round"), axis_of(key), finding)
    return Figure(title, [Panel("", drawing)], table_of(title, lines), legend)


def _maps(run: RecordedRun, more: str) -> list[Figure]:
    """Test samples in the plane of the first two principal components, round by round, and by t-SNE after the last."""
    kept = representation_files(run.path)
    shown = [list(kept)[place] for place in evenly(len(kept), PICTURED)]
    tables = [_first(read_representations(kept[round])) for round in shown]
    if not tables:
        return []
    panels, rows, before = [], [], None
    for round, table in zip(shown, tables, strict=True):
        places, share = principal_plane(table.features)
        before = places = places if before is None else turned_onto(places, before)
        where = f"round {round}, PCA, {100 * share:.0f} % of variance"
        panels.append(Panel(where, _scatter(places, table, f"{where}: {_apart(table)}")))
        rows.append([str(round), f"{100 * share:.1f} %", _apart(table)])
    if len(tables[-1].features) >= NEIGHBOURHOODS:
        where = f"round {shown[-1]}, t-SNE"
        panels.append(
            Panel(where, _scatter(neighbour_map(tables[-1].features, run.seed), tables[-1], f"{where}: {_apart(tables[-1])}"))
        )
    names = tables[-1].classes
    legend = list(enumerate(names)) if len(names) <= NAMED_CLASSES else []
    shown_by_maps = Table(
        "What the maps show", ["round", "variance in the plane", "how far classes lie apart"], rows, frozenset({2})
    )
    title = f"{len(tables[-1].labels)} test samples as the encoder sees them; each map is turned onto the one before{more}"
    return [Figure(title, panels, shown_by_maps, legend, wide=True)]


def _first(table: Representations) -> Representations:
    return Representations(table.features[:MAPPED], table.labels[:MAPPED], table.classes)


def _apart(table: Representations) -> str:
    """How many samples have a nearest neighbour, in all the features, of their own class."""
    squares = np.square(table.features).sum(axis=1)
    distances = squares[:, None] + squares[None] - 2 * table.features @ table.features.T
    np.fill_diagonal(distances, np.inf)
    same = (table.labels[distances.argmin(axis=1)] == table.labels).mean() if len(squares) > 1 else 0.0
    return f"the nearest neighbour of {100 * same:.0f} % of the samples is of their own class"


def _scatter(places: Floats, table: Representations, finding: str) -> Markup:
    """One dot a sample, in its class's colour; classes beyond the palette repeat colours in another shape."""
    from markupsafe import Markup

    low, high = places.min(axis=0), places.max(axis=0)
    scale = 240 / (float((high - low).max()) or 1.0)
    middle = (low + high) / 2
    groups = []
    for label, name in enumerate(table.classes):
        dots = (places[table.labels == label] - middle) * scale * (1, -1) + 135
        marks = "".join(_mark(label // STYLES, x, y) for x, y in dots.tolist())
        mark = Markup('<path class="dots" d="{}"/>').format(marks)
        groups.append(Markup('<g class="line s{}" data-name="{}">{}</g>').format(label % STYLES, name, mark))
    head = Markup('<svg class="map" viewBox="0 0 270 270" role="img" aria-label="{}">').format(finding)
    return head + Markup("").join(groups) + Markup("</svg>")


def _mark(shape: int, x: float, y: float) -> str:
    """A disc, a square or a triangle around a place, as a piece of a path."""
    if shape == 0:
        return f"M{x - 2.5:.1f} {y:.1f}a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0z"
    return f"M{x - 2.5:.1f} {y - 2.5:.1f}h5v5h-5z" if shape == 1 else f"M{x:.1f} {y - 3:.1f}l3 5h-6z"
