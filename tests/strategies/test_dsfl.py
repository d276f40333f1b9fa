"""DS-FL: a sharpened mean of probabilities labels the public samples, for clients and server."""

from __future__ import annotations

import math

import pytest
import torch
from fedkd.strategies.dsfl import DSFL
from public_runs import client_of, few_samples, server_of, tiny

from fedkd import Knowledge, simulate
from fedkd.methods.public_distillation import predict_public


def answer(strategy: DSFL, *tables: torch.Tensor) -> torch.Tensor:
    uploads = {k: Knowledge.of("probabilities", {"probabilities": table}) for k, table in enumerate(tables)}
    return strategy.server_update(server_of(tiny(strategy)), uploads).tensors["probabilities"]


def rows(*row: float) -> torch.Tensor:
    """The same row of 10 classes, the rest zeros, for each of the 30 public samples."""
    return torch.tensor([*row, *[0.0] * (10 - len(row))]).expand(30, 10).clone()


@pytest.mark.recomputed("dsfl", by="hand")
def test_the_answer_is_a_softmax_of_mean_probabilities() -> None:
    """Means 0.6, 0.4 and eight zeros; over 0.1: e^6, e^4 and eight times 1."""
    total = math.exp(6) + math.exp(4) + 8
    expected = torch.tensor([math.exp(6) / total, math.exp(4) / total, *[1 / total] * 8])
    assert torch.allclose(answer(DSFL(), rows(1.0), rows(0.2, 0.8))[0], expected, atol=1e-6)


@pytest.mark.recomputed("dsfl", by="hand")
def test_power_sharpens_and_leaves_certainty_alone() -> None:
    sharpened = answer(DSFL(sharpening="power"), rows(1.0), rows(0.2, 0.8))
    assert torch.allclose(sharpened[0, :2], torch.tensor([0.36, 0.16]) / 0.52)
    assert torch.equal(answer(DSFL(sharpening="power"), rows(0.0, 1.0)), rows(0.0, 1.0))


def entropy(table: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(table.double()).sum(1)


def test_entropy_falls_between_certainty_and_none() -> None:
    for name in ("entropy_reduction", "power"):
        assert bool((entropy(answer(DSFL(sharpening=name), rows(0.6, 0.4))) < entropy(rows(0.6, 0.4))).all())


def test_the_labels_move_the_clients_net_and_the_servers() -> None:
    strategy, predictions = DSFL(), {}
    for label in (0, 1):
        client, server = client_of(tiny(strategy)), server_of(tiny(strategy))
        strategy.client_update(client, Knowledge())
        table = torch.nn.functional.one_hot(torch.full((30,), label), 10).float()
        heard = strategy.server_update(server, {0: Knowledge.of("probabilities", {"probabilities": table})})
        client.exchange = 1
        assert strategy.client_update(client, heard).metrics["distillation"] > 0
        predictions[label] = [predict_public(node.net(), node.public_subset()).softmax(1)[:, 0] for node in (client, server)]
    assert all(bool((zero > one).all()) for zero, one in zip(*predictions.values(), strict=True))


def test_probabilities_of_the_rounds_samples_are_all_that_travels() -> None:
    """4 P C bytes each way, a client and round: 20 samples, 10 classes, 2 clients."""
    row = simulate(tiny(DSFL(public_per_round=20))).metrics[1]
    assert row["bytes_up"] == row["bytes_down"] == 2 * 4 * 20 * 10
    assert row["distillation"] > 0
    assert row["cross_entropy"] == row["loss"] > 0


@pytest.mark.slow
def test_labelling_together_beats_training_alone() -> None:
    """On 359 test digits: the server's net 0.92 (0.92), each client's alone in twice as many rounds 0.62 (0.66) on average;
    seed 0 (1)."""
    alone = simulate(few_samples("local", rounds=20)).metrics[-1]["accuracy"]
    assert simulate(few_samples("dsfl")).metrics[-1]["accuracy"] > alone + 0.15
