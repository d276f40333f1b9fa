"""A strategy of ours is a Flower strategy: in a ServerApp of one's own, by its own loop and by Flower's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedkd.engine.app import client_app_of
from fedkd.experiment.experiment import Experiment
from fedkd.grids import run_app
from fedkd.testing.check import fail
from fedkd.testing.trial import Trial, said

ROUNDS = 2


def runs_in_flowers_own_loop(trial: Trial) -> None:
    """``start`` and Flower's own ``start`` give what ``simulate`` gives; several exchanges a round need ours."""
    experiment, expected = trial.experiment(rounds=ROUNDS), trial.history.metrics[ROUNDS]
    setting, look = f"{said(experiment)}; in a ServerApp of one's own", "the hooks that it overrides: it should override none"
    ours = in_own_server_app(experiment, trial.strategy.start)
    row = ours.train_metrics_clientapp[ROUNDS]
    if row["clients_ok"] != experiment.data.clients or row.get("accuracy") != expected.get("accuracy"):
        wanted = f"accuracy {expected.get('accuracy')} from start, as from simulate"
        fail(f"{row.get('accuracy')}", expected=wanted, setting=setting, look=look)
    flowers_own = partial(FlowerStrategy.start, trial.strategy)
    if experiment.strategy.exchanges_per_round(experiment) > 1:
        _refused(experiment, flowers_own, setting, look)
        return
    flowers = in_own_server_app(experiment, flowers_own)
    found = flowers.train_metrics_clientapp[ROUNDS]["loss"], flowers.evaluate_metrics_clientapp[ROUNDS]["accuracy"]
    if found != (expected["loss"], expected["accuracy"]):
        wanted = f"loss {expected['loss']} and accuracy {expected['accuracy']} from Flower's loop"
        fail(f"{found[0]} and {found[1]}", expected=wanted, setting=setting, look=look)


def _refused(experiment: Experiment, start: Callable[..., Result], setting: str, look: str) -> None:
    try:
        in_own_server_app(experiment, start)
    except RuntimeError as error:
        if "several exchanges a round" in str(error):
            return
        raise
    fail("a result", expected="Flower's loop, which knows one exchange a round, to be refused", setting=setting, look=look)


def in_own_server_app(experiment: Experiment, start: Callable[..., Result]) -> Result:
    """What ``start`` gives in a ServerApp of one's own, with the experiment in ``train_config``."""
    app = ServerApp()
    results: list[Result] = []

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        config = ConfigRecord({key: value for key, value in context.run_config.items()})
        results.append(start(grid, ArrayRecord(), num_rounds=ROUNDS, train_config=config))

    clients = client_app_of(experiment.functions())
    with _quiet():
        run_app(app, clients, num_supernodes=experiment.data.clients, run_config=experiment.to_flat())
    return results[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Flower tells each round in many lines."""
    log = logging.getLogger("flwr")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)
