"""What a report is made of: sections, their figures, and a table behind each figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from markupsafe import Markup


@final
@dataclass(frozen=True)
class Table:
    """Rows of text under headings. The first entry of a row names it. ``words``: columns that hold prose, set to the left."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: frozenset[int] = frozenset()


@final
@dataclass(frozen=True)
class Panel:
    """One drawing, an ``<svg>``, and what it is called."""

    title: str
    drawing: Markup


@final
@dataclass(frozen=True)
class Figure:
    """Panels with one legend: (style, name) of each line; ``table`` holds the numbers that they show."""

    title: str
    panels: Sequence[Panel]
    table: Table
    legend: Sequence[tuple[int, str]] = ()
    wide: bool = False


@final
@dataclass(frozen=True)
class Section:
    """A named part of the page: what it shows, in words; figures; tables; pairs of a term and its description; plain text.

    Args:
        anchor: its name in addresses.
        title: its heading.
        intro: how the numbers come about.
        figures: with a table behind each.
        tables: shown openly.
        pairs: terms and what they mean here.
        texts: (heading, text) of what is shown as it is written, folded: code, BibTeX.
    """

    anchor: str
    title: str
    intro: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    pairs: Sequence[tuple[str, str]] = ()
    texts: Sequence[tuple[str, str]] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.figures or self.tables or self.pairs or self.texts)
