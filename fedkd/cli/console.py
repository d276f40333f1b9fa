"""What a run shows while it goes on: a live table on a terminal, plain lines in a pipe, JSON lines, or nothing."""

from __future__ import annotations

import json
from typing import final

from fedkd.results.files import plain
from fedkd.results.live_table import display as shown
from fedkd.results.round_lines import Display, Row


def display(title: str, rounds: int, *, as_json: bool, quiet: bool) -> Display:
    """What shows a run, for the output at hand."""
    if as_json:
        return JsonLines()
    return Display() if quiet else shown(title, rounds)


@final
class JsonLines(Display):
    """One line of strict JSON a round."""

    def row(self, row: Row) -> None:
        """Print the row."""
        print(json.dumps(plain(row), allow_nan=False), flush=True)
