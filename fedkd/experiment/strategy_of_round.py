"""The strategy as it is in one round: where ``train.final_temperature`` is set, its temperature goes over the rounds."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.values import ExperimentValues


def strategy_of(experiment: ExperimentValues, round: int) -> Algorithm:
    """The strategy of a round, counted from 1; the very same one in all where nothing of it changes.

    Raises:
        InputError: it has no temperature, and one is asked for.
    """
    last = experiment.train.final_temperature
    return _with_temperature(experiment.strategy, max(1, round), experiment.rounds, last) if last else experiment.strategy


@lru_cache(maxsize=64)
def _with_temperature(strategy: Any, round: int, rounds: int, last: float) -> Algorithm:
    """From its own temperature in round 1 to ``last`` in the last round, evenly."""
    if not hasattr(strategy, "temperature"):
        name = type(strategy).__name__
        raise InputError(f"train.final_temperature: {name} has no strategy.temperature to go there from: leave it out")
    share = (round - 1) / max(1, rounds - 1)
    changed: Algorithm = replace(strategy, temperature=strategy.temperature + share * (last - strategy.temperature))
    return changed
