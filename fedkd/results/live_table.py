"""A table of rounds that grows in place, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Self, final

from fedkd.results.live_notebook import LiveNotebook
from fedkd.results.progress import Progress
from fedkd.results.round_lines import Display, PlainLines, Row, describe, remaining
from fedkd.results.stopping import STOPPED

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 15
"""How many of the latest rounds the live table keeps in sight."""


def display(title: str, rounds: int) -> Display:
    """What shows a run here: a table on a terminal or in a notebook, else lines of text."""
    if _in_notebook():
        return LiveNotebook(title, rounds)
    return LiveTable(title, rounds) if sys.stdout.isatty() else PlainLines(title, rounds)


@final
class LiveTable(Display):
    """The latest rounds; under them how far this one is, and the time to go."""

    def __init__(self, title: str, rounds: int) -> None:
        from rich.live import Live

        self._title, self._rounds, self._caption = title, rounds, f"0 of {rounds} rounds"
        self._rows, self._times, self._within = list[Row](), list[float](), ""
        self._live = Live(get_renderable=self._table, refresh_per_second=4)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def row(self, row: Row) -> None:
        """A line more."""
        self._rows.append(row)
        whose = f"; accuracy: {row['accuracy_of']}" if "accuracy_of" in row else ""
        self._caption = f"round {row['round']} of {self._rounds}{remaining(self._times, row, self._rounds)}{whose}"
        if row.get(STOPPED):
            self._caption = f"stopped after round {row['round']} of {self._rounds}: {row[STOPPED]}{whose}"
        self._within = ""
        self._live.refresh()

    def progress(self, progress: Progress) -> None:
        """The line under the table, which is drawn anew a few times a second."""
        self._within = f"round {progress.round}: {progress.in_words()}"

    def __exit__(self, *_: object) -> None:
        """Leave the table as it is."""
        self._within = ""
        self._live.stop()

    def _table(self) -> Table:
        return table(self._title, self._rows[-SHOWN:], "\n".join(filter(None, (self._within, self._caption))))


def table(title: str, rows: list[Row], caption: str) -> Table:
    """The latest rounds as a rich table."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=None, pad_edge=False)
    for name in describe({"round": 0}):
        shown.add_column(name, justify="right")
    for row in rows:
        cells = describe(row)
        failed = bool(row.get("clients_failed") or row.get("clients_late"))
        shown.add_row(*(Text(text, style="red" if failed and name == "clients" else "") for name, text in cells.items()))
    return shown


def _in_notebook() -> bool:
    shell: Callable[[], object] | None = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return shell is not None and type(shell()).__name__ == "ZMQInteractiveShell"
