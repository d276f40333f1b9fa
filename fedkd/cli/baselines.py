"""Baselines: what every result must be held against, on the same data, with the same training, nets and rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedkd.base.errors import InputError

if TYPE_CHECKING:
    from fedkd.experiment.experiment import Experiment
    from fedkd.results.recorded import RecordedRun

#: Nobody helps, everybody's samples at one place, everybody's nets asked at once, weights averaged.
NAMES = ("local", "centralised", "ensemble", "fedavg")


def baselines_of(experiment: Experiment) -> dict[str, Experiment]:
    """The baselines of an experiment by name: the same experiment with another strategy, and without [privacy].

    Left out are the experiment's own strategy and what these clients cannot do, as FedAvg with unequal nets.
    """
    from fedkd.experiment.registry import name_of

    own = name_of(type(experiment.strategy))
    return {name: experiment.replace(strategy=name, privacy={}) for name in NAMES if name != own and _can(experiment, name)}


def _can(experiment: Experiment, name: str) -> bool:
    from fedkd.experiment.registry import load

    try:
        load(name).needs.check(name, experiment)
    except InputError:
        return False
    return True


def comparison(runs: Sequence[RecordedRun]) -> list[dict[str, str]]:
    """What came out of runs, in words: accuracies in the last round, bytes over all rounds; seeds of one experiment as one row.

    ``client accuracy`` is measured on each client's own test samples, ``global accuracy`` on the global test set.
    """
    from fedkd.results.curves import headline
    from fedkd.results.recorded import group_seeds
    from fedkd.results.row_keys import describe_key
    from fedkd.results.statistics import sent_up, size

    table = []
    for group in group_seeds(runs):
        rows = [run.rows for run in group.runs]
        uploaded = sum(sent_up(row) for run in rows for row in run) / len(rows)
        accuracies = {
            describe_key("client_accuracy").short: _last(rows, "client_accuracy"),
            "global accuracy": _last(rows, "accuracy"),
        }
        whose = {"global accuracy of": headline(group.runs[0])}
        table.append({"strategy": group.label, **accuracies, **whose, "uploaded": size(uploaded)})
    return table


def _last(runs: Sequence[Sequence[Mapping[str, Any]]], metric: str) -> str:
    """The metric where it was last measured, over the seeds; empty where it never was."""
    from fedkd.results.statistics import percent, summary

    values = [result.last for rows in runs if (result := summary(rows, metric))]
    return percent(values) if values else ""
