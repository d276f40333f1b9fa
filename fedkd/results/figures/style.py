"""What all figures share: palette, lines, markers, matplotlib's settings, and names that can be drawn."""

from __future__ import annotations

from typing import Any

#: Okabe and Ito's palette: told apart with any colour vision. Styles and markers tell the lines apart in grey as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be named "$\\"
}
#: Of files, whenever they are written.
OF_FILES = {
    "svg.fonttype": "path",  # glyphs travel with the file
    "pdf.fonttype": 42,
    "svg.hashsalt": "fedkd",  # the same figure gives the same file
}


def line_style(index: int) -> dict[str, Any]:
    """The colour, dashes and marker of a line: no two of the first twelve are alike, and none of forty without colours.

    >>> [line_style(index)["marker"] + str(line_style(index)["linestyle"]) for index in (0, 1, 5, 8)]
    ['o-', 's--', 'P-', 'o:']
    """
    hollow = {"markerfacecolor": "white"} if index // len(MARKERS) % 2 else {}
    style = {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index % len(LINES)]}
    return {**style, "marker": MARKERS[index % len(MARKERS)], **hollow}


def drawn_name(name: str, most: int = 30) -> str:
    """A user's name as a figure can show it: in one line, not too long, and never a name that legends leave out.

    >>> drawn_name("a\\nb"), drawn_name("x" * 40), drawn_name("_private")
    ('a b', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxx…', ' _private')
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(name).split()))
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return f" {text}" if text.startswith("_") else text
