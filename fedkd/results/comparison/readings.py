"""What one run has to say: its metric at the end, at its best and over the last rounds, and what it took to reach a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedkd.results.curves import is_recorded
from fedkd.results.row_keys import SHARE, describe_key
from fedkd.results.statistics import sent_down, sent_up

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Readings:
    """A metric after the last round, at its best (chosen on the test set, so it flatters), and the mean of the last k."""

    last: float
    best: float
    mean: float
    averaged: int  # of how many it is the mean: k, or as often as it was measured


@dataclass(frozen=True)
class Reached:
    """When a metric was first measured at its target: the round, and what had been spent by its end by all clients together."""

    round: int
    uploaded: float  # bytes
    downloaded: float  # bytes
    seconds: float
    cpu_seconds: float | None  # None where a round has not recorded it, as are those below
    joules: float | None
    simulated_seconds: float | None  # by the virtual clock


def higher_is_better(metric: str) -> bool:
    """Whether more of it is better: so of shares, as accuracies are; of losses and distances less is.

    >>> higher_is_better("client_accuracy"), higher_is_better("loss")
    (True, False)
    """
    return describe_key(metric).unit == SHARE


def measured(rows: Rows, metric: str) -> list[tuple[Mapping[str, Any], float]]:
    """The rows after row 0, the state before training, that have this number, each with it."""
    return [
        (row, float(row[metric]))
        for row in rows
        if row["round"] > 0 and isinstance(row.get(metric), int | float) and not isinstance(row[metric], bool)
    ]


def readings(rows: Rows, metric: str, last_k: int) -> Readings | None:
    """The readings of a run's rows; None where the metric was never measured.

    >>> rows = [{"round": r, "accuracy": a} for r, a in enumerate([0.9, 0.5, 0.75, 0.25])]
    >>> readings(rows, "accuracy", last_k=2)
    Readings(last=0.25, best=0.75, mean=0.5, averaged=2)
    """
    values = [value for _, value in measured(rows, metric)]
    if not values:
        return None
    tail = values[-last_k:]
    best = max(values) if higher_is_better(metric) else min(values)
    return Readings(values[-1], best, sum(tail) / len(tail), len(tail))


def reach(rows: Rows, metric: str, target: float) -> Reached | None:
    """When the metric first was at the target or beyond it; None where it never was. It can only be seen where it was measured.

    >>> rows = [{"round": r, "accuracy": a, "bytes_up": 10, "seconds": 2.0} for r, a in enumerate([0.9, 0.5, 0.75])]
    >>> reach(rows, "accuracy", 0.75)
    Reached(round=2, uploaded=30.0, downloaded=0.0, seconds=6.0, cpu_seconds=None, joules=None, simulated_seconds=None)
    """
    there = (value >= target if higher_is_better(metric) else value <= target for _, value in measured(rows, metric))
    at = next((row["round"] for (row, _), is_there in zip(measured(rows, metric), there, strict=True) if is_there), None)
    if at is None:
        return None
    until = [row for row in rows if row["round"] <= at]
    return Reached(
        int(at),
        sum(map(sent_up, until)),
        sum(map(sent_down, until)),
        sum(float(row.get("seconds") or 0) for row in until),
        *(_sum(until, key) for key in ("cpu_seconds", "joules", "simulated_seconds")),
    )


def _sum(rows: Rows, key: str) -> float | None:
    return sum(float(row.get(key) or 0) for row in rows) if is_recorded(rows, key) else None
