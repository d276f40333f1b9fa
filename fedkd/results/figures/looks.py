"""Looks: how wide a figure is and how large its letters are, as fedkd draws it and as venues print it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from fedkd.base.errors import InputError, unknown

#: Looks like Times, the text of these venues, and comes with matplotlib: the figure is the same on every machine.
TIMES = ("STIXGeneral", "DejaVu Sans")


@dataclass(frozen=True)
class Look:
    """Sizes of a figure of lines.

    Args:
        column: inches of a column of text.
        page: inches of a page of text.
        letters: points of labels and titles.
        small: points of ticks and legends.
        fonts: the first that has a letter draws it; empty: matplotlib's own.
        brief: whether axes say as little as they can, as captions say the rest.
        panel: inches that a panel takes at least.
        width: inches of the whole figure; 0: what its panels need.
    """

    column: float
    page: float
    letters: float
    small: float
    fonts: tuple[str, ...] = ()
    brief: bool = True
    panel: float = 1.6
    width: float = 0.0

    def settings(self) -> dict[str, Any]:
        """What matplotlib is told, beside fedkd's own style."""
        sizes = {"font.size": self.letters, "axes.titlesize": self.letters, "axes.labelsize": self.letters}
        sizes |= {key: self.small for key in ("xtick.labelsize", "ytick.labelsize", "legend.fontsize")}
        thin = {"axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6} if self.brief else {}
        return {**sizes, **thin, **({"font.family": list(self.fonts)} if self.fonts else {})}


#: fedkd's own: for screens and slides.
PLAIN = Look(column=5.2, page=11.0, letters=9, small=9, brief=False, panel=11 / 3)
#: Widths of text as the venues' own templates have them; letters a little smaller than the text, which has 10 points.
VENUES: Mapping[str, Look] = MappingProxyType(
    {
        "neurips": Look(column=5.5, page=5.5, letters=9, small=7.5, fonts=TIMES),  # one column of text
        "icml": Look(column=3.25, page=6.75, letters=8, small=7, fonts=TIMES),
        "ieee": Look(column=3.5, page=7.16, letters=8, small=8, fonts=TIMES),  # asks for letters of 8 to 10 points
    }
)


def look_of(style: str, width: str | float = "") -> Look:
    """The look of a venue, or fedkd's own for an empty name; ``width`` is "column", "page" or a number of inches.

    Raises:
        InputError: no such venue; a width that is none, or beyond what a page can hold.

    >>> look_of("icml", "column").width, look_of("ieee").width, look_of("", "6.5").width
    (3.25, 0.0, 6.5)
    """
    if style and style not in VENUES:
        raise unknown("style", style, VENUES)
    look = VENUES[style] if style else PLAIN
    if width in ("column", "page"):
        return replace(look, width=getattr(look, width))
    if width == "":
        return look
    try:
        inches = float(width)
    except ValueError:
        raise InputError(f"width {width!r}: give column, page, or a number of inches") from None
    if not 2 <= inches <= 40:
        raise InputError(f"width {inches:g}: a figure is 2 to 40 inches wide")
    return replace(look, width=inches)
