"""What a run shows while it goes on: a live table on a terminal, plain lines in a pipe, JSON lines, or nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from fedkd.results.files import plain
from fedkd.results.round_lines import OnRow, Row, describe, plain_lines, remaining

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 15
"""How many of the latest rounds the live table keeps in sight."""


def display(title: str, rounds: int, *, as_json: bool, quiet: bool) -> AbstractContextManager[OnRow]:
    """What to call with each row, for the output at hand."""
    if as_json:
        return nullcontext(json_line)
    if quiet:
        return nullcontext(lambda row: None)
    return live_table(title, rounds) if sys.stdout.isatty() else plain_lines(title, rounds)


def json_line(row: Row) -> None:
    """Print the row as one line of strict JSON."""
    print(json.dumps(plain(row), allow_nan=False), flush=True)


@contextmanager
def live_table(title: str, rounds: int) -> Iterator[OnRow]:
    """A table that grows in place, with the time to go under it."""
    from rich.live import Live

    times: list[float] = []
    rows: list[Row] = []
    with Live(refresh_per_second=4) as live:
        live.update(table(title, rows, f"0 of {rounds} rounds"))

        def on_row(row: Row) -> None:
            rows.append(row)
            whose = f"; accuracy: {row['accuracy_of']}" if "accuracy_of" in row else ""
            caption = f"round {row['round']} of {rounds}{remaining(times, row, rounds)}{whose}"
            live.update(table(title, rows[-SHOWN:], caption), refresh=True)

        yield on_row


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
