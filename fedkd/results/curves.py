"""From logged rows to the lines of a figure: mean and band over seeds, cumulative bytes, seconds and joules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import InputError
from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.row_keys import SHARE, describe_key
from fedkd.results.statistics import mean_interval, percent, sent_up

Floats = NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Curve:
    """One line: R measured rounds, averaged over the seeds. All arrays are (R,)."""

    label: str
    seeds: tuple[int, ...]  # of each run
    rounds: Floats
    uploaded: Floats  # bytes sent by all clients since the start; NaN before the first, for a log axis
    seconds: Floats  # since the start
    cpu_seconds: Floats  # likewise, as are those below; NaN where a run has not recorded them
    joules: Floats
    simulated_seconds: Floats  # by the virtual clock
    values: Floats  # (S, R), a row for each seed
    mean: Floats
    half_width: Floats  # of the 95 % interval; NaN for one seed
    whose: tuple[str, ...] = ()  # of the headline accuracy: whose it is, in words, each once

    def along(self, x: str) -> Floats:
        """Where the rounds lie on a horizontal axis, one of ``XS``."""
        at: Floats = self.uploaded if x == "bytes" else getattr(self, x)
        return at


#: What a metric is drawn against.
XS = ("rounds", "bytes", "seconds", "cpu_seconds", "joules", "simulated_seconds")


def curve(seeds: Seeds, metric: str) -> Curve:
    """The metric over the rounds in which every seed measured it; bytes and seconds are means over the seeds."""
    whose = tuple(dict.fromkeys(headline(run) for run in seeds.runs if run.rows)) if metric == "accuracy" else ()
    return curve_of(seeds.label, [run.seed for run in seeds.runs], [run.rows for run in seeds.runs], metric, whose)


def curve_of(label: str, seeds: Sequence[int], tables: Sequence[Rows], metric: str, whose: tuple[str, ...] = ()) -> Curve:
    """The same of the rows of each seed."""
    measured = [{row["round"] for row in rows if _is_number(row.get(metric))} for rows in tables]
    rounds = sorted(set.intersection(*measured))
    values = np.array([_at(rows, metric, rounds) for rows in tables])  # (S, R)
    mean, half_width = mean_interval(values)

    def spent(number: Callable[[Mapping[str, Any]], float]) -> Floats:
        sums: Floats = np.mean([_sum_until(rows, number, rounds) for rows in tables], axis=0)
        return sums

    def recorded(key: str) -> Floats:
        there = all(is_recorded(rows, key) for rows in tables)
        return spent(lambda row: row.get(key) or 0.0) if there else np.full(len(rounds), np.nan)

    uploaded = spent(sent_up)
    uploaded = np.where(uploaded > 0, uploaded, np.nan)
    taken = spent(lambda row: row["seconds"])
    others = recorded("cpu_seconds"), recorded("joules"), recorded("simulated_seconds")
    return Curve(label, tuple(seeds), np.array(rounds, float), uploaded, taken, *others, values, mean, half_width, whose)


def is_recorded(rows: Rows, key: str) -> bool:
    """Whether each round after 0 says what it has taken, so that sums are of the whole run.

    >>> is_recorded([{"round": 0}, {"round": 1, "joules": 2.5}], "joules"), is_recorded([{"round": 0}, {"round": 1}], "joules")
    (True, False)
    """
    trained = [row for row in rows if row["round"] > 0]
    return bool(trained) and all(row.get(key) is not None for row in trained)


def reached(line: Curve, metric: str, target: float) -> int | None:
    """Where the mean over the seeds first reaches a target after round 0: shares from below, all else from above."""
    there = line.mean >= target if is_share(metric) else line.mean <= target
    there = there & (line.rounds > 0)
    return int(np.argmax(there)) if there.any() else None


def check_measured(runs: Sequence[RecordedRun], metric: str) -> None:
    """Raise InputError if none of the runs ever measured the metric."""
    values = [row[metric] for run in runs for row in run.rows if row.get(metric) is not None]
    if values and not any(map(_is_number, values)):
        raise InputError(f"the metric {metric!r} is no number in the rows: draw one that is, as accuracy")
    if not values:
        known = sorted({key for run in runs for row in run.rows for key in row if describe_key(key).unit == SHARE})
        raise InputError(f"no run has the metric {metric!r}: they have {', '.join(known) or 'no accuracy at all'}")


def is_share(metric: str) -> bool:
    """Whether the metric is a fraction that is best read in percent.

    >>> is_share("mean_peer_accuracy"), is_share("agreement"), is_share("peer_divergence")
    (True, True, False)
    """
    return describe_key(metric).unit == SHARE


def check_target(target: float | None, metric: str) -> None:
    """Raise InputError for a target that the metric, a share, cannot have: 80 where 0.8 is meant."""
    if target is not None and is_share(metric) and not 0 <= target <= 1:
        raise InputError(f"target {target:g}: {metric} is a share of one: give 0.8 for 80 %")


def reading(metric: str, values: Sequence[float]) -> str:
    """The metric's values, one for each seed, as a reader wants them: shares in percent, other numbers as they are.

    >>> reading("accuracy", [0.5]), reading("peer_divergence", [0.5]), reading("peer_divergence", [0.5, 0.52, 0.51])
    ('50.0 %', '0.5', '0.51 ± 0.025')
    """
    if is_share(metric):
        return percent(values)
    mean, half = mean_interval(values)
    return f"{mean:.4g}" if np.isnan(half) else f"{mean:.4g} ± {half:.2g}"


def accuracy_name(curves: Sequence[Curve], metric: str) -> str:
    """What the figure's vertical axis shows: the headline metric is named after what it was taken from."""
    names, label = measures(curves), describe_key(metric).axis
    return f"{label}\n({names[0]})" if len(names) == 1 else label


def measures(curves: Sequence[Curve]) -> list[str]:
    """Whose accuracies the headline metric of these lines is, each once; none for another metric: its name says it."""
    return list(dict.fromkeys(name for line in curves for name in line.whose))


def headline(run: RecordedRun) -> str:
    """Whose accuracy the run's headline is, in words; of a run that did not record it, whether a linear probe's or a net's."""
    return headline_of(run.rows)


def headline_of(rows: Rows) -> str:
    """The same of a run's rows."""
    measured = [row for row in rows if row.get("accuracy") is not None]
    if named := list(dict.fromkeys(row["accuracy_of"] for row in measured if "accuracy_of" in row)):
        return " or ".join(named[-2:])
    probed = measured and all(row.get("probe_accuracy") == row["accuracy"] for row in measured)
    return "linear probe" if probed else "classifier"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _at(rows: Rows, metric: str, rounds: Sequence[int]) -> list[float]:
    by_round = {row["round"]: row for row in rows}
    return [by_round[round][metric] for round in rounds]


def _sum_until(rows: Rows, number: Callable[[Mapping[str, Any]], float], rounds: Sequence[int]) -> list[float]:
    """The number's sum over all rows up to each of the rounds."""
    total, until = 0.0, {}
    for row in rows:
        total += number(row)
        until[row["round"]] = total
    return [until[round] for round in rounds]
