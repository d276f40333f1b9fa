"""A strategy of ours in anybody's Flower app: a ServerApp of one's own, ClientApps that know fedkd, and others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, arrays_size_mod
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result
from torch import nn

from fedkd import Experiment, InputError, RunFailed, Strategy, simulate
from fedkd.app import client_app
from fedkd.client import answer_public, answer_queries, evaluate_and_answer, train_and_answer
from fedkd.grids import run_app
from fedkd.strategies import DSFL, FedAvg, FedMD

DATA = {"clients": 2, "partition": "iid", "train_limit": 120, "test_limit": 50, "public": 40}
TRAIN = {"data.source": "digits", **{f"data.{key}": value for key, value in DATA.items()}, "nets": "mlp"}


def run(
    strategy: Strategy, clients: ClientApp, rounds: int = 2, run_config: dict[str, Any] | None = None, **given: Any
) -> Result:
    """The result of a strategy's own ``start`` in a ServerApp; the app's run-config has none of fedkd's keys."""
    server, results = ServerApp(), list[Result]()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        results.append(strategy.start(grid, num_rounds=rounds, train_config=ConfigRecord(TRAIN), **given))

    run_app(server, clients, num_supernodes=2, run_config={"learning-rate": 0.5, **(run_config or {})})
    return results[0]


def rows(result: Result) -> list[float]:
    return [record["accuracy"] for _, record in sorted(result.train_metrics_clientapp.items())]  # type: ignore[misc]


@pytest.mark.slow
def test_clients_train_as_the_servers_strategy_says_and_not_as_a_run_config_does() -> None:
    strategy = FedMD(private_epochs=1, digest_epochs=3)
    expected = simulate(Experiment(strategy=strategy, rounds=2, nets="mlp", data=DATA)).metrics
    result = run(strategy, client_app(), run_config={"strategy.name": "fedmd", "strategy.digest_epochs": 1})
    assert rows(result) == [row["accuracy"] for row in expected[1:]]
    assert [record["accuracy"] for record in result.evaluate_metrics_clientapp.values()] == [
        row["client_accuracy"] for row in expected
    ]


def net(shape: Any, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


@pytest.mark.slow
def test_handlers_of_ones_own_may_do_something_before_and_after() -> None:
    app, seen = ClientApp(), list[str]()
    answer_queries(app, nets=net)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen.append("train")
        return train_and_answer(message, context, nets=net)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return evaluate_and_answer(message, context, nets=net)

    result = run(FedAvg(), app, nets=net)
    expected = simulate(Experiment(strategy="fedavg", rounds=2, nets=net, data=DATA)).metrics
    assert rows(result) == [row["accuracy"] for row in expected[1:]]
    assert seen == ["train"] * 4


def own(predict: Callable[[Any], Any], **what: Any) -> ClientApp:
    """An app whose clients have a model of their own kind."""
    app = ClientApp()
    answer_queries(app)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer_public(message, context, predict=predict, **what)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return evaluate_and_answer(message, context, predict=predict)

    return app


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DSFL(temperature=1.0), FedMD()])
def test_a_model_of_any_kind_says_what_it_thinks_and_hears_what_all_do(strategy: Strategy) -> None:
    """All clients' model says class 3, so what all said is class 3, and who scores it finds the share of threes."""
    trained, heard = list[tuple[int, ...]](), list[Any]()
    app = own(
        lambda inputs: np.eye(10)[[3] * len(inputs)] * 5,
        train=lambda inputs, labels: trained.append(tuple(labels.shape)),
        learn=lambda inputs, targets: heard.append((inputs.shape, targets)),
    )
    result = run(strategy, app, rounds=1)
    assert trained == [(32,), (32,)], "each client's own training samples: 80 are dealt out, a fifth is kept for its test"
    (shape, targets), _ = heard
    assert shape == (40, 1, 8, 8) and torch.equal(targets.argmax(1), torch.full((40,), 3))
    assert 0.0 < float(result.train_metrics_clientapp[1]["accuracy"]) < 0.3  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "predict", "reason"),
    [
        (
            FedAvg(),
            lambda inputs: np.zeros((len(inputs), 10)),
            "answer_public: fedavg asks clients for more than a table",
        ),
        (DSFL(), lambda inputs: np.zeros((len(inputs), 3)), r"predict must give finite numbers \(40, 10\), got \(40, 3\)"),
        (DSFL(), lambda inputs: np.full((len(inputs), 10), np.nan), r"predict must give finite numbers"),
    ],
)
def test_what_does_not_fit_is_said_in_the_failure(strategy: Strategy, predict: Callable[[Any], Any], reason: str) -> None:
    with pytest.raises(RunFailed, match=reason), pytest.warns():
        run(strategy, own(predict), rounds=1)


@pytest.mark.slow
def test_a_net_that_was_never_trained_is_not_scored_in_the_place_of_the_apps_own_model() -> None:
    app = ClientApp()
    answer_queries(app)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer_public(message, context, predict=lambda inputs: np.zeros((len(inputs), 10)))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return evaluate_and_answer(message, context)

    with pytest.raises(RunFailed, match=r"nothing could be evaluated .* this client's model is its app's own: give predict"):
        run(FedMD(), app, rounds=1)


def test_an_app_that_knows_nothing_of_fedkd_is_refused_before_round_1() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise AssertionError("never asked")

    with pytest.raises(InputError, match=r"^node 0 cannot join: .*fedkd\.client"):
        run(FedMD(), app)


@pytest.mark.slow
def test_mods_see_each_message_and_those_that_change_weights_are_refused_with_the_reason() -> None:
    assert len(rows(run(FedMD(private_epochs=1), client_app(mods=[arrays_size_mod])))) == 2
    with pytest.raises(
        InputError, match=r"^node 0 cannot join: LocalDpMod .*: leave this mod out; fedkd's own noise is set under privacy$"
    ):
        run(FedAvg(), client_app(mods=[LocalDpMod(1.0, 1.0, 1.0, 1e-5)]))
