"""From logged rows to the lines of a figure: mean and band over seeds, cumulative bytes and seconds."""

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


@dataclass(frozen=True, eq=False)
class Curve:
    """One line: R measured rounds, averaged over the seeds. All arrays are (R,)."""

    label: str
    seeds: int
    rounds: NDArray[np.float64]
    uploaded: NDArray[np.float64]  # bytes sent by all clients since the start; NaN before the first, for a log axis
    seconds: NDArray[np.float64]  # since the start
    mean: NDArray[np.float64]
    half_width: NDArray[np.float64]  # of the 95 % interval; NaN for one seed


def curve(seeds: Seeds, metric: str) -> Curve:
    """The metric over the rounds in which every seed measured it; bytes and seconds are means over the seeds."""
    measured = [{row["round"] for row in run.rows if row.get(metric) is not None} for run in seeds.runs]
    rounds = sorted(set.intersection(*measured))
    values = np.array([_at(run, metric, rounds) for run in seeds.runs])  # (S, R)
    mean, half_width = mean_interval(values)
    uploaded = np.mean([_sum_until(run, sent_up, rounds) for run in seeds.runs], axis=0)
    seconds = np.mean([_sum_until(run, lambda row: row["seconds"], rounds) for run in seeds.runs], axis=0)
    uploaded = np.where(uploaded > 0, uploaded, np.nan)
    return Curve(seeds.label, len(seeds.runs), np.array(rounds, float), uploaded, seconds, mean, half_width)


def check_measured(runs: Sequence[RecordedRun], metric: str) -> None:
    """Raise InputError if none of the runs ever measured the metric."""
    if not any(row.get(metric) is not None for run in runs for row in run.rows):
        known = sorted({key for run in runs for row in run.rows for key in row if describe_key(key).unit == SHARE})
        raise InputError(f"no run has the metric {metric!r}: they have {', '.join(known) or 'no accuracy at all'}")


def is_share(metric: str) -> bool:
    """Whether the metric is a fraction that is best read in percent.

    >>> is_share("mean_peer_accuracy"), is_share("agreement"), is_share("peer_divergence")
    (True, True, False)
    """
    return describe_key(metric).unit == SHARE


def reading(metric: str, values: Sequence[float]) -> str:
    """The metric's values, one for each seed, as a reader wants them: shares in percent, other numbers as they are.

    >>> reading("accuracy", [0.5]), reading("peer_divergence", [0.5]), reading("peer_divergence", [0.5, 0.52, 0.51])
    ('50.0 %', '0.5', '0.51 ± 0.025')
    """
    if is_share(metric):
        return percent(values)
    mean, half = mean_interval(values)
    return f"{mean:.4g}" if np.isnan(half) else f"{mean:.4g} ± {half:.2g}"


def accuracy_name(groups: Sequence[Seeds], metric: str) -> str:
    """What the figure's vertical axis shows: the headline metric is named after what it was taken from."""
    if metric != "accuracy":
        return describe_key(metric).axis
    names, label = measures(groups, metric), describe_key(metric).axis
    return f"{label}\n({names[0]})" if len(names) == 1 else label


def measures(groups: Sequence[Seeds], metric: str) -> list[str]:
    """Whose accuracies the headline metric of these runs is, each once. One for another metric: its name says it."""
    if metric != "accuracy":
        return [metric]
    return list(dict.fromkeys(headline(run) for group in groups for run in group.runs if run.rows))


def headline(run: RecordedRun) -> str:
    """Whose accuracy the run's headline is, in words; of a run that did not record it, whether a linear probe's or a net's."""
    measured = [row for row in run.rows if row.get("accuracy") is not None]
    if named := list(dict.fromkeys(row["accuracy_of"] for row in measured if "accuracy_of" in row)):
        return " or ".join(named[-2:])
    probed = measured and all(row.get("probe_accuracy") == row["accuracy"] for row in measured)
    return "linear probe" if probed else "classifier"


def _at(run: RecordedRun, metric: str, rounds: Sequence[int]) -> list[float]:
    by_round = {row["round"]: row for row in run.rows}
    return [by_round[round][metric] for round in rounds]


def _sum_until(run: RecordedRun, number: Callable[[Mapping[str, Any]], float], rounds: Sequence[int]) -> list[float]:
    """The number's sum over all rows up to each of the rounds."""
    total, until = 0.0, {}
    for row in run.rows:
        total += number(row)
        until[row["round"]] = total
    return [until[round] for round in rounds]
