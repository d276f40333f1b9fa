"""The run behind Flower's hooks, for Flower's own loop, or a wrapper's, that drives a strategy of ours."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import replace

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from fedkd.base.config_text import flatten
from fedkd.base.errors import Notice
from fedkd.engine.instruction import EXPERIMENT
from fedkd.engine.run import Run
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.registry import describe
from fedkd.results.history import History
from fedkd.results.lost_rounds import is_lost

_CURRENT: ContextVar[Run] = ContextVar("fedkd_run")


def experiment_of(strategy: Algorithm, config: ConfigRecord | None, functions: Functions) -> Experiment:
    """The experiment of a config's flat keys, with this very strategy."""
    flat = {key: value for key, value in (config or {}).items() if not isinstance(value, bytes | list)}
    flat |= flatten({"strategy": describe(strategy)})
    return Experiment.from_flat(flat, replace(functions, strategy=type(strategy))).replace(strategy=strategy)


def told_to_clients(experiment: Experiment) -> dict[str, ConfigRecord]:
    """The record by which clients learn the experiment: no run-config need have it, and the strategy has this server's values.

    Of the settings only those that are not the defaults: it goes with every message.
    """
    usual = {key: value for key, value in Experiment(strategy="local").to_flat().items() if not key.startswith("strategy.")}
    flat = experiment.to_flat().items()
    return {EXPERIMENT: ConfigRecord({key: value for key, value in flat if key not in usual or usual[key] != value})}


def open_round(strategy: Algorithm, round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> list[Message]:
    """The messages of a round. In the first, a run is opened; in all, ``arrays`` are what is broadcast, if there are any.

    Raises:
        RuntimeError: the strategy makes several exchanges a round, for which Flower's loop has no place.
    """
    if round == 1:
        functions = Functions(strategy=type(strategy))
        experiment = experiment_of(strategy, config, functions)
        run = Run(experiment, grid, functions=functions, beside=told_to_clients(experiment))
        run.prepare()
        _CURRENT.set(run)
    run = current_run(strategy)
    if round == 1 and run.experiment.stop.on:
        text = "[stop] does nothing here: whose loop this is says how many rounds it makes (strategy.start heeds it)"
        warnings.warn(text, Notice, stacklevel=2)
    if strategy.exchanges_per_round(run.experiment) > 1:
        raise RuntimeError(f"{type(strategy).__name__} makes several exchanges a round: call its own start(grid, ...)")
    run.begin(round)
    if arrays:
        run.adopt(arrays)
    return run.instructions()


def current_run(strategy: Algorithm) -> Run:
    """The run that ``open_round`` opened. Raises RuntimeError where there is none."""
    run = _CURRENT.get(None)
    if run is None or run.strategy != strategy:
        raise RuntimeError(
            f"no round of this {type(strategy).__name__} has begun: call start(grid, ...), or configure_train first"
        )
    return run


def close_training(run: Run, round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
    """Take in a round's uploads; gives the next broadcast's arrays and the mean losses, both None if no upload counted.

    Raises:
        RunFailed: the experiment's last round is over, and in none an upload counted.
    """
    run.absorb(replies)
    row, _ = run.close()
    if round >= run.experiment.rounds:
        run.check()
    return (None, None) if is_lost(row) else (run.arrays(), run.losses())


def flower_result(run: Run, history: History, scores: Mapping[int, MetricRecord]) -> Result:
    """A run's History as Flower's Result, with the caller's own scores by round."""
    result = Result(arrays=run.arrays())
    for row in history.metrics:
        numbers = {key: float(value) for key, value in row.items() if isinstance(value, int | float) and key != "round"}
        target = result.train_metrics_clientapp if row["round"] else result.evaluate_metrics_serverapp
        target[row["round"]] = MetricRecord({**numbers})
        if "client_accuracy" in numbers:
            result.evaluate_metrics_clientapp[row["round"]] = MetricRecord({"accuracy": numbers["client_accuracy"]})
    result.evaluate_metrics_serverapp.update(scores)
    return result
