"""A heat map as a small SVG around an image of one pixel a cell: thousands of cells stay a few kilobytes."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from markupsafe import Markup

#: Anchors of the viridis map, dark to light: read the same with any colour vision, in grey, and on paper.
ANCHORS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
#: The index of the palette that is transparent: what was not measured.
MISSING = 255
LEFT, RIGHT, TOP = 66, 408, 8
#: Where each cell can hold its number.
READABLE = 12
Floats = NDArray[np.float64]


def heat_map(
    values: Floats,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    names: tuple[str, str],
    finding: str,
    low: float,
    high: float,
    said: Sequence[Sequence[str]] = (),
) -> Markup:
    """The drawing of a table.

    Args:
        values: (R, C); NaN where there is none.
        rows: what each row is called.
        columns: what each column is called.
        names: what rows and columns are.
        finding: what is to be seen, in words.
        low: the value of the darkest colour.
        high: of the lightest.
        said: (R, C) texts that stand in the cells, if these are few.
    """
    from markupsafe import Markup

    height = min(420, max(90, 22 * len(rows)))
    bottom = TOP + height
    across, down = (RIGHT - LEFT) / max(1, len(columns)), height / max(1, len(rows))
    parts = [
        Markup('<svg class="heat" viewBox="0 0 420 {}" role="img" tabindex="0" aria-label="{}"').format(bottom + 46, finding),
        Markup(' data-box="{} {} {} {}"').format(LEFT, TOP, RIGHT, bottom),
        Markup(' data-size="{} {}" data-names="{}">').format(len(rows), len(columns), "|".join(names)),
        Markup(
            '<image x="{}" y="{}" width="{}" height="{}" preserveAspectRatio="none" href="data:image/png;base64,{}"/>'
        ).format(LEFT, TOP, RIGHT - LEFT, height, base64.b64encode(png(values, low, high)).decode()),
        Markup('<g class="frame">'),
    ]
    for index in evenly_spaced(len(rows), int(height // 14)):
        text = _short(rows[index], 9)
        parts.append(
            Markup('<text class="y" x="{}" y="{:.1f}">{}</text>').format(LEFT - 5, TOP + (index + 0.5) * down + 4, text)
        )
    longest = max((len(_short(name, 9)) for name in columns), default=1)
    for index in evenly_spaced(len(columns), int((RIGHT - LEFT) // (7 * longest + 6))):
        place = LEFT + (index + 0.5) * across
        parts.append(
            Markup('<text class="x" x="{:.1f}" y="{}">{}</text>').format(place, bottom + 15, _short(columns[index], 9))
        )
    parts.append(Markup('<text class="x name" x="{}" y="{}">{}</text>').format((LEFT + RIGHT) // 2, bottom + 36, names[1]))
    middle = (TOP + bottom) // 2
    parts.append(Markup('<text class="x name" transform="translate(12 {}) rotate(-90)">{}</text></g>').format(middle, names[0]))
    if len(said) and len(columns) <= READABLE and len(rows) <= 2 * READABLE:
        parts += [_written(values, said, r, c, low, high, across, down) for r in range(len(rows)) for c in range(len(columns))]
    return Markup("").join(parts) + Markup("</svg>")


def _written(
    values: Floats, said: Sequence[Sequence[str]], row: int, column: int, low: float, high: float, across: float, down: float
) -> Markup:
    from markupsafe import Markup

    light = np.isfinite(values[row, column]) and (values[row, column] - low) > 0.6 * (high - low)
    kind = "on-light" if light else "on-dark" if np.isfinite(values[row, column]) else "on-page"
    place = LEFT + (column + 0.5) * across, TOP + (row + 0.5) * down + 3.5
    return Markup('<text class="cell {}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, *place, said[row][column])


def png(values: Floats, low: float, high: float) -> bytes:
    """A picture of (R, C) values, one pixel each, from dark at ``low`` to light at ``high``; NaN is transparent."""
    span = high - low or 1.0
    scaled = np.clip((np.nan_to_num(values) - low) / span, 0, 1) * (MISSING - 1)
    pixels = np.where(np.isfinite(values), scaled.round(), MISSING).astype(np.uint8)
    rows, columns = pixels.shape
    lines = np.hstack([np.zeros((rows, 1), np.uint8), pixels]).tobytes()  # each row begins with its filter: none
    places = np.linspace(0, len(ANCHORS) - 1, MISSING)
    palette = np.stack([np.interp(places, range(len(ANCHORS)), channel) for channel in zip(*ANCHORS, strict=True)], axis=1)
    colours = np.vstack([palette, [0, 0, 0]]).round().astype(np.uint8).tobytes()
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)  # 8 bits a pixel, of a palette
    opaque = b"\xff" * MISSING + b"\x00"
    chunks = [(b"IHDR", header), (b"PLTE", colours), (b"tRNS", opaque), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def evenly_spaced(count: int, most: int) -> range:
    """Positions of at most so many of ``count`` things, evenly spaced from the first on.

    >>> list(evenly_spaced(10, 4)), list(evenly_spaced(3, 4))
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return range(0, count, max(1, ceil(count / max(1, most))))


def _short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def lowest_and_highest(column: NDArray[np.float64]) -> tuple[int, int] | None:
    """The places of the lowest and the highest of the numbers (N,) that are there; None where none is.

    >>> lowest_and_highest(np.array([0.5, np.nan, 0.2]))
    (2, 0)
    """
    known = np.flatnonzero(np.isfinite(column))
    return (int(known[column[known].argmin()]), int(known[column[known].argmax()])) if len(known) else None
