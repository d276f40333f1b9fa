"""A line chart as a small SVG whose colours follow the page's: no text is drawn as paths, no style stands in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, final

from fedkd.results.report.scale import Scale, linear, logarithmic
from fedkd.results.statistics import duration, size

if TYPE_CHECKING:
    from markupsafe import Markup

#: Of every chart, in its own units: about the pixels of a phone's width.
WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 68, 408, 12, 222
#: So many colours, and so many dashes, are told apart; page.css has them.
STYLES, DASHES = 7, 5


@final
@dataclass(frozen=True)
class Line:
    """One line: places (R,), what is said of each that is pointed at, and a band from ``low`` to ``high`` if there is one."""

    name: str
    style: int
    x: Sequence[float]
    y: Sequence[float]
    values: Sequence[str]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@final
@dataclass(frozen=True)
class Axis:
    """What an axis shows, and how: "number", "round", "share", "bytes" (logarithmic) or "seconds"."""

    label: str
    kind: str = "number"

    def say(self, value: float) -> str:
        """A value on this axis, in words."""
        if self.kind == "share":
            return f"{100 * value:.6g} %"
        if self.kind == "bytes":
            return size(value).replace(".0 ", " ")
        return duration(value) if self.kind == "seconds" else f"{value:.6g}"

    def named(self, scale: Scale) -> str:
        """The label, with the unit of the ticks where this depends on how far the axis goes."""
        return f"{self.label} ({unit_of_time(scale.high)[0]})" if self.kind == "seconds" else self.label


def unit_of_time(longest: float) -> tuple[str, float]:
    """The unit in which times up to the longest are read, and its seconds.

    >>> unit_of_time(90), unit_of_time(1000), unit_of_time(9000)
    (('s', 1.0), ('min', 60.0), ('h', 3600.0))
    """
    units = {"h": 3600.0, "min": 60.0}
    return next(((name, unit) for name, unit in units.items() if longest >= 2 * unit), ("s", 1.0))


def line_chart(lines: Sequence[Line], x: Axis, y: Axis, finding: str, *, beside: Sequence[Line] = ()) -> Markup:
    """The drawing of some lines; ``finding`` says in words what is to be seen. The axis up holds those of ``beside`` too."""
    from markupsafe import Markup

    points = [(a, b) for line in lines for a, b in zip(line.x, line.y, strict=True) if isfinite(a) and isfinite(b)]
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" tabindex="0" aria-label="{}">').format(
        WIDTH, HEIGHT, finding
    )
    if not points:
        text = Markup('<text class="none" x="{}" y="{}">nothing was measured</text>').format(WIDTH // 2, HEIGHT // 2)
        return head + text + Markup("</svg>")
    across, up = _across(x, [a for a, _ in points]), _up(y, [*lines, *beside])
    drawn = Markup("").join(_draw(line, across, up, x) for line in lines)
    return (
        head
        + _frame(across, up, x.named(across), y)
        + drawn
        + Markup('<line class="cursor" y1="{}" y2="{}"/></svg>').format(TOP, BOTTOM)
    )


def _across(axis: Axis, values: Sequence[float]) -> Scale:
    if axis.kind == "bytes":
        return logarithmic(min(values), max(values), LEFT, RIGHT, axis.say)
    if axis.kind == "seconds":
        _, unit = unit_of_time(max(values))
        return linear(min(values), max(values), LEFT, RIGHT, lambda value: f"{value / unit:.6g}", tight=True, unit=unit)
    return linear(min(values), max(values), LEFT, RIGHT, axis.say, tight=True, whole=axis.kind == "round")


def _up(axis: Axis, lines: Sequence[Line]) -> Scale:
    values = [value for line in lines for value in chain(line.y, line.low, line.high) if isfinite(value)]
    low, high = min(values), max(values)
    if axis.kind == "bytes":
        return logarithmic(low, high, BOTTOM, TOP, axis.say)
    low = 0.0 if low >= 0 and low < 0.3 * high else low
    return linear(low, high, BOTTOM, TOP, axis.say, most=1.0 if axis.kind == "share" and high <= 1 else None)


def _frame(across: Scale, up: Scale, below: str, y: Axis) -> Markup:
    """Grid, ticks and the names of the axes."""
    from markupsafe import Markup

    parts = [Markup('<g class="frame">')]
    for value, text in up.ticks:
        place = round(up.at(value), 1)
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, place, RIGHT))
        parts.append(Markup('<text class="y" x="{}" y="{}">{}</text>').format(LEFT - 6, round(place + 4, 1), text))
    for value, text in across.ticks:
        place = round(across.at(value), 1)
        parts.append(Markup('<path class="grid" d="M{} {}v4"/>').format(place, BOTTOM))
        end = " end" if place > RIGHT - 12 else ""
        parts.append(Markup('<text class="x{}" x="{}" y="{}">{}</text>').format(end, place, BOTTOM + 17, text))
    parts.append(Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(LEFT, TOP, BOTTOM, RIGHT))
    parts.append(Markup('<text class="x name" x="{}" y="{}">{}</text>').format((LEFT + RIGHT) // 2, HEIGHT - 10, below))
    middle = (TOP + BOTTOM) // 2
    parts.append(Markup('<text class="x name" transform="translate(13 {}) rotate(-90)">{}</text></g>').format(middle, y.label))
    return Markup("").join(parts)


def _draw(line: Line, across: Scale, up: Scale, x: Axis) -> Markup:
    """A line in pieces between its gaps, a dot where a piece is a single point; its band below it."""
    from markupsafe import Markup

    places = [
        (across.at(a), up.at(b), index)
        for index, (a, b) in enumerate(zip(line.x, line.y, strict=True))
        if isfinite(a) and isfinite(b) and not (across.log and a <= 0) and not (up.log and b <= 0)
    ]
    pieces = list(_pieces(places))
    path = "".join("M" + " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in piece) for piece in pieces if len(piece) > 1)
    dots = Markup("").join(
        Markup('<circle r="3" cx="{:.1f}" cy="{:.1f}"/>').format(*piece[0][:2]) for piece in pieces if len(piece) == 1
    )
    band = Markup("")
    if len(line.low) and len(places) > 1:
        over = [(a, up.at(min(max(line.high[i], up.low), up.high))) for a, _, i in places if isfinite(line.high[i])]
        under = [(a, up.at(min(max(line.low[i], up.low), up.high))) for a, _, i in places if isfinite(line.low[i])]
        outline = " ".join(f"{a:.1f},{b:.1f}" for a, b in [*over, *reversed(under)])
        band = Markup('<path class="band" d="M{}Z"/>').format(outline) if outline else band
    said = "|".join(line.values[index].replace("|", "/") for _, _, index in places)
    at = "|".join(f"{x.label.split(' (')[0].split(',')[0]} {x.say(line.x[index])}" for _, _, index in places)
    spots = " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in places)
    return Markup('<g class="line s{} d{}" data-name="{}" data-at="{}" data-said="{}" data-spots="{}">{}{}{}</g>').format(
        line.style % STYLES,
        line.style % DASHES,
        line.name,
        at,
        said,
        "" if path.count("M") == 1 and not dots else spots,
        band,
        Markup('<path class="stroke" d="{}"/>').format(path) if path else "",
        dots,
    )


def _pieces(places: Sequence[tuple[float, float, int]]) -> Iterator[list[tuple[float, float, int]]]:
    """Neighbours that follow each other without a gap."""
    piece: list[tuple[float, float, int]] = []
    for place in places:
        if piece and place[2] != piece[-1][2] + 1:
            yield piece
            piece = []
        piece.append(place)
    if piece:
        yield piece
