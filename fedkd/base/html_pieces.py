"""Small pieces of HTML for notebooks: they take the notebook's own colours, so that they are read on light and on dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_CELL = "text-align:left;padding:.15em .8em .15em 0;border:0;background:none"
_LINE = "border-bottom:1px solid rgba(128,128,128,.35)"


def block(*parts: str) -> str:
    """Pieces of HTML below each other."""
    return f'<div style="color:inherit;line-height:1.45">{"".join(parts)}</div>'


def heading(text: str, more: str = "") -> str:
    """A line in bold, and what is said beside it."""
    return f"<div><strong>{escape(text)}</strong> {escape(more)}</div>"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text; without headings where these are empty.

    >>> table([], [["a<b", "1"]]).count("&lt;")
    1
    """
    head = "".join(f'<th scope="col" style="{_CELL};{_LINE}">{escape(text)}</th>' for text in headings)
    cells = ("".join(f'<td style="{_CELL}">{escape(text)}</td>' for text in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    shown = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<table style="border-collapse:collapse;margin:.4em 0;color:inherit">{shown}<tbody>{body}</tbody></table>'


def folded(title: str, lines: Sequence[str]) -> str:
    """Lines of text that are shown when one asks for them."""
    text = escape("\n".join(lines))
    return f'<details><summary>{escape(title)}</summary><pre style="color:inherit;background:none">{text}</pre></details>'


def sparkline(values: Sequence[float], *, says: str) -> str:
    """A curve as large as a word, in the colour of the text; ``says`` is read to who does not see it.

    >>> "points=\\"2.0,28.0 118.0,2.0\\"" in sparkline([0.25, 0.75], says="accuracy, from 25 % to 75 %")
    True
    """
    width, height, edge = 120, 30, 2
    low, span = min(values), (max(values) - min(values)) or 1.0
    step = (width - 2 * edge) / max(1, len(values) - 1)
    places = [(edge + step * n, height - edge - (value - low) / span * (height - 2 * edge)) for n, value in enumerate(values)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return (
        f'<svg role="img" aria-label="{escape(says)}" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'style="vertical-align:middle"><polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
        "</svg>"
    )
