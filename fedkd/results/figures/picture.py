"""A figure as fedkd makes it: styled, laid out once, shown by notebooks, the same in every file."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from matplotlib import rc_context
from matplotlib.figure import Figure

from fedkd.results.figures.style import OF_FILES, STYLE

#: Pixels an inch: on a screen, and in print.
SCREEN, PRINT = 150, 300
_NO_DATES: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


@final
class Picture(Figure):
    """A matplotlib Figure that a notebook shows by itself; whoever saves it gets its fonts in the file."""

    def savefig(self, *arguments: Any, **options: Any) -> None:
        """As matplotlib has it."""
        with rc_context(OF_FILES):
            super().savefig(*arguments, **options)

    def _repr_png_(self) -> bytes:
        """What a notebook shows, with or without pyplot."""
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=SCREEN)
        return picture.getvalue()


@contextmanager
def styled_figure(width: float, height: float, settings: Mapping[str, Any] = MappingProxyType({})) -> Iterator[Picture]:
    """A figure of so many inches in fedkd's style; ``settings`` of matplotlib come before those of the style."""
    with rc_context({**STYLE, **settings}):
        yield Picture(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path, suffixes: Sequence[str], *, dpi: int = SCREEN) -> list[Path]:
    """Write the figure in each of these formats; the same figure gives the same files. Gives their paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lay_out(figure)
    files = [path.with_suffix(suffix) for suffix in suffixes]
    for file in files:
        figure.savefig(file, dpi=dpi, metadata=_NO_DATES[file.suffix])
    return files


def lay_out(figure: Figure) -> None:
    """Place everything once and for all: the same in every format, whatever settings of matplotlib's come later."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
