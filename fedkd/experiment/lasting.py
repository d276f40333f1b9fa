"""Uploads that count in a later round than their own: whether the strategy's may, and what else they need."""

from __future__ import annotations

from fedkd.base.errors import InputError
from fedkd.experiment.values import ExperimentValues


def check_lasting(experiment: ExperimentValues) -> None:
    """Raise InputError where late or asynchronous uploads are wanted and cannot be."""
    strategy, name = experiment.strategy, type(experiment.strategy).__name__
    if experiment.participation == "async":
        _check_asynchrony(experiment)
    elif not experiment.late_rounds:
        return
    if not (strategy.outlives_its_round and strategy.exchanges_per_round(experiment) == 1):
        key, cure = "late_rounds", "set it to 0"
        if experiment.participation == "async":
            key, cure = 'participation = "async"', "set a share of the clients, or take a strategy such as fedavg"
        raise InputError(f"{key}: uploads of {name} make sense in their own round only: {cure}")


def _check_asynchrony(experiment: ExperimentValues) -> None:
    asynchrony, clients = experiment.asynchrony, experiment.data.clients
    if not experiment.clock.on:
        raise InputError('participation = "async": it goes by the virtual clock: set clock.devices, what clients compute with')
    if not asynchrony.buffer:
        raise InputError('participation = "async": asynchrony.buffer says how many uploads make a round: set it, say to 10')
    for key in ("buffer", "concurrency"):
        if (number := getattr(asynchrony, key)) > clients:
            raise InputError(f"asynchrony.{key} = {number}: there are {clients} clients: set it to at most {clients}")
