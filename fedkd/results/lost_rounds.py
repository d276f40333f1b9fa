"""Lost rounds, in which no client's upload counted: they are said as they come; a run of nothing else has failed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, final

from fedkd.base.errors import Notice

Row = Mapping[str, Any]


def is_lost(row: Row) -> bool:
    """Whether a round of training ended with nobody: all clients failed or were late, and no late upload was used either.

    >>> is_lost({"round": 3, "clients_ok": 0}), is_lost({"round": 3, "clients_ok": 1}), is_lost({"round": 0, "clients_ok": 0})
    (True, False, False)
    """
    return row["round"] > 0 and row.get("clients_ok") == 0 and not row.get("late_used")


def failure_of(rows: Sequence[Row]) -> str:
    """Why a run of these rows has nothing to show, naming round, client and the first reason; empty where it has.

    It has nothing to show if every round was lost, or if whatever was to be evaluated after training could not be.

    >>> failure_of([{"round": 0, "clients_ok": 0}, {"round": 1, "clients_ok": 0, "failures": {"4": "OSError: disk full"}}])
    "no client's upload counted in any round (round 1, client 4: OSError: disk full)"
    """
    trained = [row for row in rows if row["round"] > 0]
    if trained and all(row.get("rolled_back") and row.get("clients_ok") for row in trained):
        return f"no round's uploads could be used (round {trained[0]['round']}: {trained[0].get('rolled_back_reason')})"
    if trained and all(map(is_lost, trained)):
        return f"no client's upload counted in any round (round {trained[0]['round']}, {_reason(trained[0], 'failures')})"
    asked = [row for row in trained if row.get("evaluation_bytes")]
    failed = asked and all(row.get("evaluation_failures") for row in asked)  # else there was nothing to evaluate
    if failed and not any(key in row for row in asked for key in ("accuracy", "client_accuracy")):
        return f"nothing could be evaluated (round {asked[0]['round']}, {_reason(asked[0], 'evaluation_failures')})"
    return ""


def _reason(row: Row, key: str) -> str:
    """The first client that is named in a row, and what it said."""
    client, reason = next(iter(row.get(key, {}).items()), ("", ""))
    return f"client {client}: {reason}" if client else "nobody was asked"


@final
class LostRounds:
    """Says each row of lost rounds: its first in full, then again whenever it has become twice as long."""

    def __init__(self, reasons: str) -> None:
        self._reasons = reasons  # where all of them stand
        self._in_a_row = 0

    def enter(self, row: Row) -> None:
        """Take note of a round."""
        self._in_a_row = self._in_a_row + 1 if is_lost(row) else 0
        lost, round = self._in_a_row, row["round"]
        if lost == 1:
            text = f"round {round}: no client's upload counted ({_reason(row, 'failures')}); all reasons: {self._reasons}"
            warnings.warn(text, Notice, stacklevel=2)
        elif lost and lost & (lost - 1) == 0:
            warnings.warn(f"rounds {round - lost + 1} to {round}: no client's upload counted", Notice, stacklevel=2)
