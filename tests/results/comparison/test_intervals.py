"""Intervals cover as often as they say, paired tests and Holm's correction are those of the books."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import isnan, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.results.comparison.intervals import Interval, bootstrap_interval, holm, paired_difference, student_interval

DRAWS = 1000
#: Three standard errors of a share of 0.95 among so many draws.
TOLERANCE = 3 * sqrt(0.95 * 0.05 / DRAWS)


def coverage(interval: Callable[[Any], Interval], seeds: int) -> float:
    """In which share of draws of a normal variable's seeds the interval holds its true mean."""
    rng = np.random.default_rng(1)
    found = [interval(values) for values in rng.normal(0.8, 0.02, (DRAWS, seeds))]
    return sum(each.low <= 0.8 <= each.high for each in found) / DRAWS


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_students_interval_covers_the_true_mean_in_95_of_100_draws_however_few_the_seeds(seeds: int) -> None:
    assert coverage(student_interval, seeds) == pytest.approx(0.95, abs=TOLERANCE)


@pytest.mark.slow
def test_the_bootstraps_interval_covers_as_often_with_many_seeds_and_too_seldom_with_few() -> None:
    """Which is why the tables say so."""
    assert coverage(lambda values: bootstrap_interval(values, resamples=999), 40) == pytest.approx(0.95, abs=2 * TOLERANCE)
    assert coverage(lambda values: bootstrap_interval(values, resamples=999), 3) < 0.85


@pytest.mark.slow
def test_a_paired_interval_covers_the_true_difference_where_seeds_are_alike() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(DRAWS):
        of_seed = rng.normal(0.8, 0.1, 5)  # what a seed does to both
        found = paired_difference(of_seed + rng.normal(0.02, 0.01, 5), of_seed)
        covered += found.low <= 0.02 <= found.high
    assert covered / DRAWS == pytest.approx(0.95, abs=TOLERANCE)


def test_the_bootstraps_interval_by_hand() -> None:
    found = bootstrap_interval([0.0, 1.0])  # means of resamples: 0, 1/2, 1/2, 1
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    same = bootstrap_interval([0.75, 0.75])
    assert (same.low, same.high) == (0.75, 0.75)
    assert isnan(bootstrap_interval([0.7]).low)


@pytest.mark.slow
def test_the_bootstraps_interval_is_scipys() -> None:
    from scipy.stats import bootstrap

    skewed = np.random.default_rng(3).exponential(1.0, 25)
    theirs = bootstrap((skewed,), np.mean, n_resamples=9999, rng=np.random.default_rng(4)).confidence_interval
    mine = bootstrap_interval(skewed)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_a_paired_difference_by_hand() -> None:
    found = paired_difference([0.80, 0.90, 0.70], [0.70, 0.70, 0.40])  # 0.1, 0.2, 0.3: t = 0.2 / (0.1 / sqrt(3)) = 3.464
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - 4.302653 * 0.1 / sqrt(3), 0.2 + 4.302653 * 0.1 / sqrt(3)))
    assert found.p == pytest.approx(0.074180, abs=1e-6)  # of |t| = 3.4641 with 2 degrees of freedom
    assert found.seeds == 3 and not found.excludes_zero


def test_differences_without_spread_or_of_one_seed() -> None:
    always = paired_difference([0.75, 0.5], [0.5, 0.25])
    assert (always.low, always.high, always.p) == (0.25, 0.25, 0.0)
    never = paired_difference([0.5, 0.5], [0.5, 0.5])
    assert (never.mean, never.p, never.excludes_zero) == (0.0, 1.0, False)
    once = paired_difference([0.75], [0.5])
    assert once.mean == 0.25 and isnan(once.low) and isnan(once.p) and not once.excludes_zero


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # 4 x 0.005, 3 x 0.01, 2 x 0.03, 0.04
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    one, not_tested = holm([0.04, float("nan")])
    assert one == 0.04 and isnan(not_tested)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_bonferroni_of_every_set_of_hypotheses(p_values: list[float]) -> None:
    """A hypothesis is rejected where each set that holds it is (closed testing): p is the largest of theirs."""
    places = range(len(p_values))
    sets = [set(each) for count in range(1, len(p_values) + 1) for each in combinations(places, count)]
    closed = [max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if place in s) for place in places]
    assert holm(p_values) == pytest.approx(closed)
