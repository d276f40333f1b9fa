"""ExpGuard, by hand: who stands out from the base loses weight, for all rounds to come."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from public_runs import server_of, tiny
from torch import Tensor

from fedkd import Server
from fedkd.aggregate import REDUCTIONS, discounted, mean
from fedkd.methods.guarded import LOG_WEIGHTS, guarded


def server(clients: int = 5) -> Server:
    return server_of(tiny("cronus", data={"clients": clients}))


def tables(clients: int = 5) -> Tensor:
    return torch.randn(clients, 7, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_at_a_step_of_zero_it_is_the_base(name: str) -> None:
    found = guarded(at := server(), tables(), range(5), REDUCTIONS[name], expguard=0.0)
    assert torch.equal(found, REDUCTIONS[name](tables()))
    assert LOG_WEIGHTS not in at.memory


@pytest.mark.parametrize("name", REDUCTIONS)
def test_equal_uploads_keep_equal_weights(name: str) -> None:
    values, at = tables()[:1].repeat(5, 1, 1), server()
    for _ in range(3):
        found = guarded(at, values, range(5), REDUCTIONS[name], expguard=2.0)
    assert at.memory.tensor(LOG_WEIGHTS).tolist() == pytest.approx([0.0] * 5)
    assert torch.allclose(found, values[0])


@pytest.mark.recomputed("outlier_scores", "discounted", by="formula")
@pytest.mark.parametrize("name", REDUCTIONS)
def test_weights_are_those_of_the_paper_round_by_round(name: str) -> None:
    """In plain loops: w_k times exp(-eta score_k), over their sum; all clients take part."""
    at, base, weights = server(), REDUCTIONS[name], [1.0] * 5
    for round in range(3):
        values = tables().roll(round, 1)
        values[4] = values[4].flip(-1)
        found = guarded(at, values, range(5), base, expguard=1.5)
        centre = base(values).tolist()
        for client, table in enumerate(values.tolist()):
            distances = [math.dist(row, middle) for row, middle in zip(table, centre, strict=True)]
            weights[client] *= math.exp(-1.5 * sum(distances) / len(distances))
        shares = [weight / sum(weights) for weight in weights]
        assert at.memory.tensor(LOG_WEIGHTS).softmax(0).tolist() == pytest.approx(shares, rel=1e-5)
        assert torch.allclose(found, mean(values, shares))


def test_who_does_not_take_part_keeps_the_weight_and_gains_nothing_on_those_who_do() -> None:
    at = server(6)
    for _ in range(4):
        guarded(at, tables()[:1].repeat(3, 1, 1) + torch.eye(3)[:, None], [0, 2, 5], mean, expguard=1.0)
    held = at.memory.tensor(LOG_WEIGHTS)
    assert held[[1, 3, 4]].tolist() == [0.0] * 3
    assert held[[0, 2, 5]].tolist() == pytest.approx([0.0] * 3, abs=1e-6)  # alike far from their middle: none stands out


def test_a_liar_loses_its_weight_and_the_server_says_so() -> None:
    at, values = server(), tables()[:1].repeat(5, 1, 1)
    values[4] = torch.eye(3)[values[0].argmin(-1)]
    base = partial(REDUCTIONS["median"])
    distances = []
    for _ in range(6):
        found = guarded(at, values, range(5), base, expguard=2.0)
        distances.append(float((found - values[0]).abs().max()))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-3 < distances[0]
    assert at.reported["client_least_weight"] < 1e-2


def test_weights_never_vanish_altogether() -> None:
    """A thousand rounds on, the least weight is 0 and the others are as they were: logarithms are kept."""
    held = torch.zeros(3)
    for _ in range(1000):
        held = discounted(held, torch.tensor([1.0, 1.0, 2.0]), 10.0)
    assert held.softmax(0).tolist() == pytest.approx([0.5, 0.5, 0.0])


def run(strategy: dict[str, Any], **changes: Any) -> dict[str, Any]:
    from fedkd import simulate

    data = {"clients": 6, "train_limit": 40 + 6 * 20, "public": 40, "partition": "iid"}
    return simulate(tiny(strategy, rounds=2, data=data, train={"lr": 0.1, "batch_size": 8}, **changes)).metrics[2]


@pytest.mark.parametrize("name", ["cronus", "dsfl", "fedmd"])
def test_strategies_over_public_samples_keep_weights_over_the_rounds(name: str) -> None:
    strategy: dict[str, Any] = {"name": name, "aggregate": "median", "expguard": 1.0}
    if name == "fedmd":
        strategy |= {"private_epochs": 1}
    row = run(strategy, attack={"name": "lma", "share": 0.34})
    assert 0 < row["client_least_weight"] < 0.9
    assert "client_least_weight" not in run({**strategy, "expguard": 0.0})


@pytest.mark.slow
def test_helps_against_attackers_that_collude() -> None:
    """Honest clients' own test accuracy, 4 of 10 attack: the mean alone 0.111, with ExpGuard 0.750; the median 0.824, 0.880."""
    from fedkd import Experiment, simulate
    from fedkd.experiment.algorithm.participation import attackers

    data = {"clients": 10, "partition": "iid", "public": 300, "train_limit": 300 + 10 * 60, "client_test": 0.3}
    common = {"rounds": 8, "nets": "mlp", "train": {"epochs": 2, "batch_size": 16, "lr": 0.05}, "evaluate_every": 8}
    found = {}
    for aggregate in ("mean", "median"):
        for eta in (0.0, 1.0):
            strategy = {"name": "cronus", "aggregate": aggregate, "expguard": eta}
            experiment = Experiment(strategy=strategy, data=data, attack={"name": "lma", "share": 0.4}, **common)
            last = [row for row in simulate(experiment).clients if row["round"] == 8]
            honest = [row["accuracy"] for row in last if row["client"] not in attackers(experiment)]
            found[aggregate, eta] = sum(honest) / len(honest)
    assert found["mean", 1.0] > found["mean", 0.0] + 0.4
    assert found["median", 1.0] > found["median", 0.0] + 0.03
