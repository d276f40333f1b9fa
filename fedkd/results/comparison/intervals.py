"""Intervals of means over seeds, tests of paired differences, and what many tests at once cost. Pure functions of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedkd.results.statistics import mean_interval

LEVEL = 0.95
#: Draws of the bootstrap: the usual number, with which its borders move by less than the last digit that is printed.
RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """A mean over S seeds, and the borders within which the mean over all seeds is expected; NaN where S is 1."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """The mean of differences on shared seeds, its Student-t interval, and the two-sided p-value of the paired t-test."""

    mean: float
    low: float
    high: float
    p: float
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def student_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean of (S,) values: right where they are normal, whatever S is.

    >>> student_interval([1.0, 2.0, 3.0]).low.__round__(3)  # 2 - 4.303 / sqrt(3)
    -0.484
    """
    mean, half = (float(part) for part in mean_interval(values, level))
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(values: ArrayLike, level: float = LEVEL, *, resamples: int = RESAMPLES) -> Interval:
    """The bias-corrected and accelerated bootstrap interval (BCa; Efron 1987) of the mean of (S,) values.

    It asks for no normal distribution, but for enough values: of 3 there are only 10 different resamples, no border can lie
    beyond the smallest and the largest value, and the interval is too narrow. The draws are the same in every call.

    >>> bootstrap_interval([1.0, 2.0])  # a mean of resamples of two values lies between them
    Interval(mean=1.5, low=1.0, high=2.0)
    """
    from scipy.special import ndtr, ndtri  # type: ignore[import-untyped]

    samples = np.asarray(values, dtype=np.float64)  # (S,)
    mean = float(samples.mean())
    if len(samples) < 2:
        return Interval(mean, np.nan, np.nan)
    if np.ptp(samples) == 0:
        return Interval(mean, mean, mean)
    rounding = 1e-9 * np.ptp(samples)  # equal means are equal, in whatever order they were summed
    draws = np.random.default_rng(0).integers(len(samples), size=(resamples, len(samples)))
    means = samples[draws].mean(axis=1)  # (R,)
    bias = ndtri((np.mean(means < mean - rounding) + np.mean(means <= mean + rounding)) / 2)
    shift = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    shares = ndtr(bias + shift / (1 - _acceleration(samples) * shift))
    low, high = np.quantile(means, shares)
    return Interval(mean, float(low), float(high))


def _acceleration(samples: NDArray[np.float64]) -> float:
    """How fast the mean's standard error changes with the mean, by leaving out each value in turn."""
    left_out = (samples.sum() - samples) / (len(samples) - 1)
    away = left_out.mean() - left_out
    return float((away**3).sum() / (6 * (away**2).sum() ** 1.5))


def paired_difference(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> PairedDifference:
    """First minus second, value by value: both hold (S,) values of the same seeds in the same order.

    With one seed there is neither interval nor p-value: both are NaN.

    >>> found = paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])  # differences 1, 2, 3: t = 2 / (1 / sqrt(3)) = 3.464
    >>> found.mean, round(found.p, 4), found.excludes_zero
    (2.0, 0.0742, False)
    """
    from scipy.special import stdtr

    differences = np.subtract(first, second, dtype=np.float64)
    inside, seeds = student_interval(differences, level), len(differences)
    if seeds < 2:
        return PairedDifference(inside.mean, np.nan, np.nan, np.nan, seeds)
    error = float(differences.std(ddof=1)) / np.sqrt(seeds)
    if error == 0:  # every seed says the same
        return PairedDifference(inside.mean, inside.low, inside.high, float(inside.mean == 0), seeds)
    p = float(2 * stdtr(seeds - 1, -abs(inside.mean) / error))
    return PairedDifference(inside.mean, inside.low, inside.high, p, seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for being many (Holm 1979), in the order given: the smallest times m, the next times m - 1, and so on.

    None becomes smaller than one that began smaller, none larger than 1. NaN, where nothing was tested, stays and counts for
    nothing.

    >>> holm([0.01, 0.04, 0.03])  # 3 x 0.01, 2 x 0.03, and 0.04 is raised to that
    [0.03, 0.06, 0.06]
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if not np.isnan(p))
    adjusted, highest = [float("nan")] * len(p_values), 0.0
    for rank, (p, place) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        adjusted[place] = highest
    return adjusted
