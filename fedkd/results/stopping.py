"""Why a run stops: read off its rows, so that one that is gone on with stops where an unbroken one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedkd.experiment.algorithm.stop_section import Stopping
from fedkd.results.row_keys import SHARE, describe_key
from fedkd.results.statistics import duration, size

Row = Mapping[str, Any]
#: The key of the last row that says why.
STOPPED = "stopped"


def reason_to_stop(stop: Stopping, rows: Sequence[Row]) -> str:
    """Which of the criteria these rows meet, in words; empty where none. Row 0 is what no training has reached.

    >>> rows = [{"round": r, "accuracy": a, "coded_bytes_up": 600} for r, a in enumerate([0.9, 0.5, 0.7, 0.6, 0.7])]
    >>> reason_to_stop(Stopping(accuracy=0.7), rows)
    'accuracy 0.7 in round 2 reached stop.accuracy = 0.7'
    >>> reason_to_stop(Stopping(patience=2), rows), reason_to_stop(Stopping(patience=3), rows)
    ('accuracy has not improved on the 0.7 of round 2 in 2 measurements (stop.patience)', '')
    >>> reason_to_stop(Stopping(bytes="2kB"), rows)
    '3.0 kB up and down are over stop.bytes = 2.0 kB'
    """
    return _reached(stop, rows) or _at_rest(stop, rows) or reason_spent(stop, rows)


def reason_spent(stop: Stopping, rows: Sequence[Row]) -> str:
    """The same of what the run has taken, whatever was measured."""
    if stop.bytes and (sent := sum(map(_bytes, rows))) >= stop.bytes:
        return f"{size(sent)} up and down are over stop.bytes = {size(stop.bytes)}"
    for key in ("seconds", "simulated_seconds"):
        limit = getattr(stop, key)
        if limit and (spent := sum(row.get(key) or 0.0 for row in rows)) >= limit:
            return f"{duration(spent)} are over stop.{key} = {duration(limit)}"
    return ""


def measured(stop: Stopping, rows: Sequence[Row]) -> list[tuple[int, float]]:
    """Round and value of the metric, wherever it was measured after training."""
    return [(row["round"], float(row[stop.metric])) for row in rows if row["round"] > 0 and row.get(stop.metric) is not None]


def _reached(stop: Stopping, rows: Sequence[Row]) -> str:
    for round, value in measured(stop, rows) if stop.accuracy else ():
        if value >= stop.accuracy:
            return f"{stop.metric} {value:.4g} in round {round} reached stop.accuracy = {stop.accuracy:g}"
    return ""


def _at_rest(stop: Stopping, rows: Sequence[Row]) -> str:
    best, best_round, since = None, 0, 0
    sign = 1 if describe_key(stop.metric).unit == SHARE else -1
    for round, value in measured(stop, rows):
        if best is None or sign * (value - best) > stop.improvement:
            best, best_round, since = value, round, 0
        else:
            since += 1
    if not stop.patience or best is None or since < stop.patience:
        return ""
    enough = f" by over {stop.improvement:g}" if stop.improvement else ""
    tail = f"of round {best_round}{enough} in {since} measurements (stop.patience)"
    return f"{stop.metric} has not improved on the {best:.4g} {tail}"


def _bytes(row: Row) -> float:
    return sum(float(row.get(f"coded_bytes_{way}") or row.get(f"bytes_{way}") or 0) for way in ("up", "down"))
