"""Groups of seeds held against each other: every number of the tables, none of their words."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan
from pathlib import Path

from fedkd.base.errors import InputError, Notice, did_you_mean
from fedkd.results.comparison.comparable import check_comparable, tell_missing_seeds, tell_other_settings
from fedkd.results.comparison.fairness import client_spread, last_accuracies
from fedkd.results.comparison.intervals import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    holm,
    paired_difference,
    student_interval,
)
from fedkd.results.comparison.readings import Reached, higher_is_better, reach, readings
from fedkd.results.curves import check_measured, check_target, headline
from fedkd.results.recorded import RecordedRun, Seeds

#: The readings of a metric: after the last round, at its best, mean of the last k.
READINGS = ("last", "best", "mean")
#: What a difference may be called. It is only better, or worse, where its interval and its adjusted p-value both say so.
BETTER, WORSE, OPEN, UNTESTED = "better", "worse", "no difference shown", "too few shared seeds"
#: Below which an adjusted p-value counts.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Sample:
    """A number of S seeds, with its mean and two 95 % intervals."""

    values: tuple[float, ...]
    student: Interval
    bootstrap: Interval

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """The sample of these values, one a seed."""
        return cls(tuple(values), student_interval(values), bootstrap_interval(values))


@dataclass(frozen=True)
class Group:
    """What the seeds of one experiment came to. ``readings`` are by name, ``reached`` by seed: None where it never was."""

    label: str
    accuracy_of: str  # whose the headline accuracy is, in words
    seeds: tuple[int, ...]
    rounds: tuple[int, int]  # that they have done, at the least and at the most: they may stop by themselves
    readings: Mapping[str, Sample]
    averaged: tuple[int, int]  # of how many rounds the mean is, at the least and at the most
    reached: Mapping[int, Reached | None]
    clients: Mapping[str, Sample]  # mean, worst_tenth, deviation and jain over the clients; empty where nobody asked


@dataclass(frozen=True)
class Difference:
    """A group minus the one that it is held against, on the seeds that both have."""

    group: str
    against: str
    paired: PairedDifference
    p_holm: float
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Groups of seeds, and their differences in one reading of one metric."""

    metric: str
    last_k: int
    reading: str
    target: float | None
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]


def compare(
    groups: Sequence[Seeds],
    *,
    metric: str = "accuracy",
    last_k: int = 5,
    reading: str = "last",
    baseline: str = "",
    all_pairs: bool = False,
    target: float | None = None,
    per_client: bool = False,
) -> Comparison:
    """Compare groups of finished runs.

    Args:
        groups: seeds of one experiment each, as ``group_seeds`` finds them.
        metric: a key of ``metrics.jsonl``.
        last_k: of how many of the last measured rounds the mean is.
        reading: which of ``READINGS`` differences are taken of.
        baseline: the label, the strategy or the directory of the group that all others are held against; default, the first.
        all_pairs: hold every group against every other one instead.
        target: a value of the metric; asked is when each seed reached it.
        per_client: whether to ask how the accuracy is spread over the clients.

    Raises:
        InputError: groups that may not stand in one column, a metric that none has, a target out of reach, an unknown baseline.
    """
    if last_k < 1:
        raise InputError(f"--last-k {last_k}: the mean is of 1 round or more")
    if reading not in READINGS:
        raise InputError(f"--reading {reading}: {did_you_mean(reading, READINGS)}")
    check_target(target, metric)
    check_measured([run for group in groups for run in group.runs], metric)
    check_comparable(groups, metric)
    tell_missing_seeds(groups)
    tell_other_settings(groups)
    chosen = find_group(groups, baseline) if baseline else groups[0]
    pairs = list(combinations(groups, 2)) if all_pairs else [(each, chosen) for each in groups if each is not chosen]
    found = {each.label: _group(each, metric, last_k, target, per_client) for each in groups}
    tested = [_paired(found[one.label], found[other.label], reading) for one, other in pairs]
    adjusted = holm([each.p for each in tested])
    differences = [
        Difference(one.label, other.label, each, p, verdict(each, p, higher=higher_is_better(metric)))
        for (one, other), each, p in zip(pairs, tested, adjusted, strict=True)
    ]
    return Comparison(metric, last_k, reading, target, tuple(found.values()), tuple(differences))


def verdict(difference: PairedDifference, p_holm: float, *, higher: bool) -> str:
    """What may be said of a difference: better or worse only where its interval leaves zero out and p, adjusted, is below 0.05.

    >>> verdict(PairedDifference(0.02, 0.01, 0.03, p=0.001, seeds=5), p_holm=0.2, higher=True)
    'no difference shown'
    """
    if isnan(p_holm):
        return UNTESTED
    if p_holm >= SIGNIFICANT or not difference.excludes_zero:
        return OPEN
    return BETTER if (difference.mean > 0) == higher else WORSE


def find_group(groups: Sequence[Seeds], name: str) -> Seeds:
    """The group of this label, strategy or directory. Raises InputError where there is none, or more than one."""
    place = Path(name).resolve()
    for fits in (
        [each for each in groups if each.label == name],
        [each for each in groups if each.runs[0].strategy == name],
        [each for each in groups if any(place in (path, *path.parents) for path in map(_place, each.runs))],
    ):
        if len(fits) == 1:
            return fits[0]
        if fits:
            labels = ", ".join(repr(each.label) for each in fits)
            raise InputError(f"--baseline {name}: {len(fits)} groups are called so: name one of {labels}")
    raise InputError(f"--baseline {name}: no group is called so: {did_you_mean(name, [each.label for each in groups])}")


def _place(run: RecordedRun) -> Path:
    return run.path.resolve()


def _group(group: Seeds, metric: str, last_k: int, target: float | None, per_client: bool) -> Group:
    by_seed = {run.seed: readings(run.rows, metric, last_k) for run in group.runs}
    found = {seed: each for seed, each in by_seed.items() if each is not None}
    if not found:
        raise InputError(f"{group.label}: {metric} was never measured: leave this group out, or choose another --metric")
    if lacking := [str(seed) for seed in by_seed if seed not in found]:
        text = f"{group.label}: {metric} was never measured with seed {', '.join(lacking)}, which is left out"
        warnings.warn(text, Notice, stacklevel=2)
    samples = {name: Sample.of([getattr(each, name) for each in found.values()]) for name in READINGS}
    averaged = [each.averaged for each in found.values()]
    runs = [run for run in group.runs if run.seed in found]
    reached = {} if target is None else {run.seed: reach(run.rows, metric, target) for run in runs}
    return Group(
        group.label,
        headline(group.runs[0]),
        tuple(found),
        (min(run.rounds_done for run in runs), max(run.rounds_done for run in runs)),
        samples,
        (min(averaged), max(averaged)),
        reached,
        dict(_clients(group.label, runs)) if per_client else {},
    )


def _clients(label: str, runs: Sequence[RecordedRun]) -> Iterator[tuple[str, Sample]]:
    accuracies = [last_accuracies(run.clients) for run in runs]
    spreads = [client_spread(each) for each in accuracies if each]
    if len(spreads) < len(runs):
        names = ", ".join(str(run.path) for run, each in zip(runs, accuracies, strict=True) if not each)
        warnings.warn(f"{label}: no client was evaluated on its own test samples in {names}", Notice, stacklevel=2)
    if spreads:
        for name in ("mean", "worst_tenth", "deviation", "jain"):
            yield name, Sample.of([getattr(spread, name) for spread in spreads])


def _paired(one: Group, other: Group, reading: str) -> PairedDifference:
    mine, theirs = (dict(zip(each.seeds, each.readings[reading].values, strict=True)) for each in (one, other))
    shared = sorted(mine.keys() & theirs.keys())
    if not shared:
        return PairedDifference(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    return paired_difference([mine[seed] for seed in shared], [theirs[seed] for seed in shared])
