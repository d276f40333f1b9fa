"""The figures of ../when_helps.py: gains as one thing varies, a map of all conditions, and gains against bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helps.plan import AXES, BASES, DEFAULT, KINDS, METHODS, PUBLIC, Condition
from helps.readings import MEASURES, Found, Gain, bytes_of, gain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

#: A row of panels each.
FAMILIES = {
    "answers about public samples": ("fedmd", "dsfl", "feddf"),
    "answers by class": ("fd", "fedproto"),
    "weights, and more": ("fedntd", "fml", "fedgen"),
}
#: A column of panels each: what varies, and its name. Public samples have one column: how many there are, and whose.
COLUMNS = {
    "alpha": "alpha: few classes a client ... all alike",
    "samples": "training samples a client",
    "clients": "clients",
    "public": "public samples: how many, of whom",
}
#: Its place among the colours.
BLACK = 6
#: Pixels an inch: seven pictures of a page, drawn anew with each seed.
DPI = 110
#: Points at which a map's colours end.
DEEPEST = 30.0
#: From how many seeds on intervals are drawn; below, dots for seeds, as t intervals of two are wider than any panel.
INTERVALS_FROM = 3


def draw_all(found: Found, folder: Path) -> list[Path]:
    """Write all figures."""
    files = []
    for key in MEASURES:
        for kind in KINDS:
            files += draw_gains(found, kind, key, folder / f"when_helps_{key}_{kind}.png")
        files += draw_map(found, key, folder / f"when_helps_map_{key}.png")
    return files + draw_bytes(found, folder / "when_helps_bytes.png")


# ---- gains as one thing varies


def points_of(kind: str, column: str) -> Iterator[tuple[str, Condition]]:
    """A column's conditions, each with what stands below it."""
    for value in AXES[column][kind]:
        yield f"{value:,}" if isinstance(value, int) else f"{value:g}", replace(DEFAULT, **{column: value})
    if column == "public":
        for source in AXES["public_of"][kind][1:]:
            yield f"{DEFAULT.public}\n{source}", replace(DEFAULT, public_of=source)


def draw_gains(found: Found, kind: str, key: str, file: Path) -> list[Path]:
    """Gains over local on one kind of data, a row of panels a family; FedAvg's is in each, so that gains over it show too."""
    from fedkd.results.figures.picture import save_figure, styled_figure

    with styled_figure(11, 7.2) as figure:
        axes = figure.subplots(len(FAMILIES), len(COLUMNS), sharey=True, squeeze=False, width_ratios=(5, 3, 3, 5))
        for row, (family, methods) in zip(axes, FAMILIES.items(), strict=True):
            for axis, column in zip(row, COLUMNS, strict=True):
                if column == "public" and not set(methods) & set(PUBLIC):
                    axis.set_axis_off()
                    axis.text(0.5, 0.5, "no public samples are used", transform=axis.transAxes, ha="center", color="#777777")
                else:
                    _draw_panel(axis, found, kind, key, column, methods)
            row[0].set_ylabel(f"{family}\npoints over local")
            legend = row[0].get_legend_handles_labels()
            row[-1].legend(*legend, handlelength=3.2, loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes[0][0].set_ylim(*_reach(found, kind, key))
        for axis, name in zip(axes[0], COLUMNS.values(), strict=True):
            axis.set_title(name, fontsize=9.5)
        figure.suptitle(
            f"{kind.capitalize()}: gain on {MEASURES[key]} over training alone (0); {_seeds_said(found)}", fontsize=11
        )
        return save_figure(figure, file, [".png"], dpi=DPI)


def _draw_panel(axis: Axes, found: Found, kind: str, key: str, column: str, methods: tuple[str, ...]) -> None:
    labels, conditions = zip(*points_of(kind, column), strict=True)
    axis.axhline(0, color="#777777", linewidth=1.0, zorder=1)
    axis.axvspan(*_band(conditions), color="#eeeeee", zorder=0)
    count = len(AXES[column][kind])  # beyond, other public samples: no line leads there
    for place, method in enumerate(("fedavg", *methods)):
        style, shift = style_of(method), 0.09 * (place - (len(methods) + 1) / 2)
        gains = [gain(found, kind, at, method, "local", key) for at in conditions]
        there = [(at, each) for at, each in enumerate(gains) if each]
        if method == "fedavg":
            style, shift = {**style, "marker": "", "zorder": 1.5}, 0.0
            if column == "public" and there:  # it asks for none
                axis.axhline(there[0][1].mean, **style)
                continue
        for group in ([pair for pair in there if pair[0] < count], *([pair] for pair in there if pair[0] >= count)):
            name = method if group[:1] == there[:1] else None
            axis.plot([at + shift for at, _ in group], [each.mean for _, each in group], label=name, **style)
        for at, each in there if method != "fedavg" else ():
            _draw_spread(axis, at + shift, each, style["color"])
    axis.set_xticks(range(len(labels)), labels)
    axis.set_xlim(-0.5, len(labels) - 0.5)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)


def style_of(method: str) -> dict[str, Any]:
    """A method's colour, dashes and marker, the same in all figures; FedAvg alone is black."""
    from fedkd.results.figures.style import COLOURS, line_style

    if method == "fedavg":
        return {"color": COLOURS[BLACK], "linestyle": (0, (1, 1)), "marker": "x", "markeredgewidth": 2, "linewidth": 2.2}
    places = [place for place in range(len(METHODS) + 1) if place != BLACK]
    return {**line_style(places[[*METHODS].index(method)]), "linewidth": 1.6, "markersize": 5}


def _draw_spread(axis: Axes, at: float, each: Gain, colour: str) -> None:
    if len(each.each) >= INTERVALS_FROM:
        axis.errorbar([at], [each.mean], [each.half], fmt="none", ecolor=colour, elinewidth=0.9, capsize=2)
    elif len(each.each) > 1:
        axis.plot([at] * len(each.each), each.each, ".", color=colour, markersize=3)


def _band(conditions: tuple[Condition, ...]) -> tuple[float, float]:
    """Around the default, which is the same in all panels."""
    place = conditions.index(DEFAULT)
    return place - 0.5, place + 0.5


def _reach(found: Found, kind: str, key: str) -> tuple[float, float]:
    """What the vertical axes show: all means, and a little more; intervals that are longer are cut."""
    ats = {at for column in COLUMNS for _, at in points_of(kind, column)}
    gains = [gain(found, kind, at, method, "local", key) for at in ats for method in ("fedavg", *METHODS)]
    means = [each.mean for each in gains if each] or [0.0]
    margin = max(2.0, 0.08 * (max(means) - min(means)))
    return min(0.0, *means) - margin, max(0.0, *means) + margin


def _seeds_said(found: Found, bars: str = "bars: 95 % t intervals") -> str:
    """How many seeds the cells have, for a title."""
    seeds = Counter(replace(cell, seed=0) for cell in found).values() or [0]
    count = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    said = bars if max(seeds) >= INTERVALS_FROM else "dots: seeds" if max(seeds) > 1 else "nothing is claimed"
    return f"seeds a cell: {count}; {said}"


# ---- the map


def map_columns(kind: str) -> Iterator[tuple[str, str, Condition]]:
    """All conditions: axis, what stands below, condition; the default once on each axis."""
    for column, title in (("alpha", "alpha"), ("samples", "samples"), ("clients", "clients"), ("public", "public samples")):
        for label, at in points_of(kind, column):
            yield title, label, at


def draw_map(found: Found, key: str, file: Path) -> list[Path]:
    """Methods by conditions: gains over local and over FedAvg, as colours and numbers; bold where they are claimed."""
    from fedkd.results.figures.picture import save_figure, styled_figure

    with styled_figure(13, 8.6) as figure:
        axes = figure.subplots(len(KINDS), len(BASES), squeeze=False)
        for row, kind in zip(axes, KINDS, strict=True):
            for axis, base in zip(row, BASES, strict=True):
                image = _draw_one_map(axis, found, kind, key, base)
        figure.colorbar(image, ax=axes, shrink=0.5, label="points", extend="both")
        figure.suptitle(
            f"Gain on {MEASURES[key]}; {_seeds_said(found, bars='bold: the 95 % t interval leaves out 0')}", fontsize=11
        )
        return save_figure(figure, file, [".png"], dpi=DPI)


def _draw_one_map(axis: Axes, found: Found, kind: str, key: str, base: str) -> AxesImage:
    import numpy as np

    columns = [*map_columns(kind)]
    rows = [method for method in (*BASES, *METHODS) if method != base]
    gains = [
        [None if _as_in_default(at, method) else gain(found, kind, at, method, base, key) for _, _, at in columns]
        for method in rows
    ]
    numbers = np.array([[each.mean if each else np.nan for each in line] for line in gains])
    image = axis.imshow(numbers, cmap="PuOr_r", vmin=-DEEPEST, vmax=DEEPEST, aspect="auto")
    for (y, x), number in np.ndenumerate(numbers):
        text = f"{number:+.0f}".replace("-", "−") if gains[y][x] else "=" if _as_in_default(columns[x][2], rows[y]) else ""
        style = {"weight": "bold"} if gains[y][x] and gains[y][x].claimed else {}
        colour = "#999999" if text == "=" else "white" if abs(number) > 0.6 * DEEPEST else "black"
        axis.text(x, y, "0" if text in ("+0", "−0") else text, ha="center", va="center", fontsize=8.5, color=colour, **style)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xticks(range(len(columns)), [label for _, label, _ in columns], fontsize=7.5)
    _name_groups(axis, [title for title, _, _ in columns])
    axis.set_title(f"{kind}: points over {base}", pad=22, fontweight="bold")
    return image


def _as_in_default(at: Condition, method: str) -> bool:
    """Whether a method uses no public samples, and these are what differs."""
    return method not in PUBLIC and at != at.without_public()


def _name_groups(axis: Axes, titles: list[str]) -> None:
    """What varies, above its columns, and white lines between."""
    for title in dict.fromkeys(titles):
        places = [place for place, each in enumerate(titles) if each == title]
        axis.text(sum(places) / len(places), -0.6, title, ha="center", va="bottom", fontsize=8.5)
        if places[0]:
            axis.axvline(places[0] - 0.5, color="white", linewidth=3)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


# ---- bytes


def draw_bytes(found: Found, file: Path) -> list[Path]:
    """Gains over local against what a client sends and is sent in the default run."""
    from matplotlib.ticker import EngFormatter

    from fedkd.results.figures.picture import save_figure, styled_figure

    with styled_figure(11, 7) as figure:
        axes = figure.subplots(len(MEASURES), len(KINDS), sharex=True, squeeze=False)
        for row, (key, name) in zip(axes, MEASURES.items(), strict=True):
            for axis, kind in zip(row, KINDS, strict=True):
                axis.axhline(0, color="#777777", linewidth=1.0)
                _draw_bytes_of(axis, found, kind, key)
                axis.set_xscale("log")
                axis.set_xlim(2e3, 1.2e7)
                axis.xaxis.set_major_formatter(EngFormatter(unit="B", sep=" "))
                axis.grid(color="#dddddd", linewidth=0.6)
                axis.set_title(f"{kind}: {name}")
            row[0].set_ylabel("points over local")
        for axis in axes[-1]:
            axis.set_xlabel("bytes up and down of a client in the whole run, log scale")
        figure.suptitle(f"What bytes buy in the default setting; {_seeds_said(found)}", fontsize=11)
        return save_figure(figure, file, [".png"], dpi=DPI)


def _draw_bytes_of(axis: Axes, found: Found, kind: str, key: str) -> None:
    gains = {method: gain(found, kind, DEFAULT, method, "local", key) for method in ("fedavg", *METHODS)}
    there = {method: each for method, each in gains.items() if each}
    at = {method: bytes_of(found, kind, DEFAULT, method) for method in there}
    for method, each in there.items():
        axis.plot([at[method]], [each.mean], **{**style_of(method), "linestyle": "", "markersize": 7})
        _draw_spread(axis, at[method], each, style_of(method)["color"])
    means = [each.mean for each in there.values()]
    for cost in set(at.values()):
        beside = sorted((there[method].mean, method) for method in there if at[method] == cost)
        last = cost == max(at.values())
        for height, (_, method) in zip(
            apart([mean for mean, _ in beside], 0.075 * (max(means) - min(means))), beside, strict=True
        ):
            place = {"x": cost * 1.2, "ha": "left"} if last else {"x": cost / 1.2, "ha": "right"}
            axis.text(y=height, s=method, va="center", **place)
    axis.margins(y=0.1)


def apart(heights: Sequence[float], least: float) -> list[float]:
    """Ascending heights moved so far that no two are nearer than ``least``; their mean stays.

    >>> apart([1.0, 1.0, 9.0], 2.0)
    [0.0, 2.0, 9.0]
    """
    from sklearn.isotonic import isotonic_regression

    steps = [place * least for place in range(len(heights))]
    level = isotonic_regression([height - step for height, step in zip(heights, steps, strict=True)])
    return [float(each + step) for each, step in zip(level, steps, strict=True)]
