"""Numbers over rounds and over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedkd.results.row_keys import SHARE, describe_key


@dataclass(frozen=True)
class Summary:
    """A run's accuracy in three readings: the last, the best (chosen on the test set) and the mean of the last five.

    A run that was measured less often has fewer to average: ``averaged`` says how many they were.
    """

    last: float
    last_round: int
    best: float
    best_round: int
    mean_last_five: float
    averaged: int


def summary(rows: Sequence[Mapping[str, Any]], metric: str = "accuracy") -> Summary | None:
    """Summarise the metric over the rounds in which it was measured; None when it never was.

    Row 0, the state before training, does not count.

    >>> summary([{"round": 0, "accuracy": 0.9}, {"round": 1, "accuracy": 0.75}, {"round": 2}]).best
    0.75
    """
    measured = [(row["round"], row[metric]) for row in rows if row["round"] > 0 and row.get(metric) is not None]
    if not measured:
        return None
    last_round, last = measured[-1]
    best_round, best = max(measured, key=lambda pair: (pair[1], -pair[0]))  # the first of equals
    last_five = [value for _, value in measured[-5:]]
    return Summary(last, last_round, best, best_round, sum(last_five) / len(last_five), len(last_five))


def best_round(rows: Sequence[Mapping[str, Any]], metric: str) -> int | None:
    """The round after 0 in which the metric was best, the first of equals; None where it was never measured.

    Shares (accuracies, agreement) are best where they are highest, all else where it is lowest.

    >>> best_round([{"round": 0, "loss": 0.1}, {"round": 1, "loss": 0.7}, {"round": 2, "loss": 0.4}], "loss")
    2
    """
    best = -1.0 if describe_key(metric).unit == SHARE else 1.0
    measured = [(best * row[metric], row["round"]) for row in rows if row["round"] > 0 and _is_number(row.get(metric))]
    return min(measured)[1] if measured else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def last_measured(counts: Sequence[int]) -> str:
    """Of which rounds a mean was taken, in words; ``counts`` has one entry a run.

    >>> last_measured([5, 5]), last_measured([3]), last_measured([1]), last_measured([2, 5])
    ('last five', 'last three', 'last one', 'last two to five')
    """
    words = ("one", "two", "three", "four", "five")
    least, most = words[min(counts) - 1], words[max(counts) - 1]
    return f"last {least}" if least == most else f"last {least} to {most}"


def sent_up(row: Mapping[str, Any]) -> float:
    """Bytes that all clients uploaded in a round: coded where a codec was used, else of the raw tensors."""
    return float(row.get("coded_bytes_up") or row.get("bytes_up") or 0.0)


def sent_down(row: Mapping[str, Any]) -> float:
    """Bytes that were broadcast to all clients in a round, likewise."""
    return float(row.get("coded_bytes_down") or row.get("bytes_down") or 0.0)


def mean_interval(values: ArrayLike, level: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over the first axis (S samples) and half the width of its Student-t interval; NaN for a single sample.

    >>> mean, half = mean_interval([1.0, 2.0, 3.0])
    >>> round(float(mean), 3), round(float(half), 3)  # t(0.975, 2) = 4.303, times 1 / sqrt(3)
    (2.0, 2.484)
    """
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    samples = np.asarray(values, dtype=np.float64)  # (S, ...)
    mean = samples.mean(axis=0)
    count = len(samples)
    if count < 2:
        return mean, np.full_like(mean, np.nan)
    quantile = stdtrit(count - 1, (1 + level) / 2)
    return mean, quantile * samples.std(axis=0, ddof=1) / np.sqrt(count)


def percent(values: Sequence[float]) -> str:
    """Fractions, one for each seed, as a reader wants them.

    >>> percent([0.5]), percent([0.5, 0.52, 0.51])
    ('50.0 %', '51.0 ± 2.5 %')
    """
    mean, half = mean_interval(values)
    return f"{100 * mean:.1f} %" if np.isnan(half) else f"{100 * mean:.1f} ± {100 * half:.1f} %"


def size(count: float) -> str:
    """A count of bytes in decimal units.

    >>> size(0), size(999), size(46_028_704)
    ('0 B', '999 B', '46.0 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}" if count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def energy(joules: float) -> str:
    """An amount of energy.

    >>> energy(3.21), energy(950), energy(46_028)
    ('3.2 J', '950 J', '46.0 kJ')
    """
    for unit in ("J", "kJ"):
        if joules < 999.5:
            return f"{joules:.3g} {unit}" if joules >= 100 else f"{joules:.1f} {unit}"
        joules /= 1000
    return f"{joules:.1f} MJ"


def duration(seconds: float) -> str:
    """A length of time in the two units that matter.

    >>> duration(3.21), duration(75), duration(3900)
    ('3.2 s', '1 min 15 s', '1 h 05 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
