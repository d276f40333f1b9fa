"""What all figures share: palette, lines, markers, matplotlib's settings, and how a file is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


@contextmanager
def styled_figure(width: float, height: float, settings: Mapping[str, Any] = MappingProxyType({})) -> Iterator[Figure]:
    """A figure of so many inches in fedkd's style; ``settings`` of matplotlib come before those of the style."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**STYLE, **settings}):
        yield Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path, suffixes: Sequence[str], *, dpi: int = 150) -> list[Path]:
    """Write the figure in each of these formats; the same figure gives the same files. Gives their paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    no_dates: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".svg": {"Date": None},
        ".pdf": {"CreationDate": None},
    }
    lay_out(figure)
    files = [path.with_suffix(suffix) for suffix in suffixes]
    for file in files:
        figure.savefig(file, dpi=dpi, metadata=no_dates[file.suffix])
    return files


def lay_out(figure: Figure) -> None:
    """Place everything once and for all: the same in every format, whatever settings of matplotlib's come later."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
