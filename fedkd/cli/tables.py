"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

#: How wide what is printed may be where nobody's terminal says it.
WIDTH = 100


def print_table(rows: Sequence[dict[str, str]], stream: TextIO, *, width: int | None = None) -> None:
    """Rows as an aligned table, as wide as the terminal; in a pipe ``width``, or as wide as it needs to be."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    wide = None if stream.isatty() else width or 500
    Console(file=stream, width=wide, markup=False, highlight=False).print(table)
