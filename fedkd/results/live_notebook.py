"""A run as it goes on, in a notebook: the latest rounds, drawn anew in their place. It needs no widgets."""

from __future__ import annotations

import time
from typing import Any, Self, final

from fedkd.base.html_pieces import block, heading
from fedkd.results.notebook import SHOWN, rounds_table
from fedkd.results.progress import Progress
from fedkd.results.round_lines import Display, Row, remaining
from fedkd.results.stopping import STOPPED

#: Seconds from one drawing to the next while a round goes on.
PAUSE = 0.5


@final
class LiveNotebook(Display):
    """The latest rounds; under them how far this one is, and the time to go."""

    def __init__(self, title: str, rounds: int) -> None:
        self._title, self._rounds, self._caption, self._within = title, rounds, f"0 of {rounds} rounds", ""
        self._rows, self._times, self._drawn = list[Row](), list[float](), 0.0
        self._place: Any = None

    def __enter__(self) -> Self:
        """Take a place below the cell."""
        from IPython.display import HTML, display

        self._place = display(HTML(self._page()), display_id=True)
        return self

    def row(self, row: Row) -> None:
        """A line more."""
        self._rows.append(row)
        self._caption = f"round {row['round']} of {self._rounds}{remaining(self._times, row, self._rounds)}"
        if row.get(STOPPED):
            self._caption = f"stopped after round {row['round']} of {self._rounds}: {row[STOPPED]}"
        self._within = ""
        self._draw()

    def progress(self, progress: Progress) -> None:
        """The line under the rounds, now and then."""
        self._within = f"round {progress.round}: {progress.in_words()}"
        if time.monotonic() - self._drawn >= PAUSE:
            self._draw()

    def __exit__(self, *_: object) -> None:
        """Leave the rounds as they are."""
        self._within = ""
        self._draw()

    def _draw(self) -> None:
        from IPython.display import HTML

        self._drawn = time.monotonic()
        self._place.update(HTML(self._page()))

    def _page(self) -> str:
        shown = [rounds_table(self._rows[-SHOWN:])] if self._rows else []
        return block(heading(self._title), *shown, heading("", self._within), heading("", self._caption))
