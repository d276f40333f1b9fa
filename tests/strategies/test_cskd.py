"""CS-KD: pairs of one class, and the loss of a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.cskd import CSKD, paired_draws, partners
from public_runs import client_of, tiny

from fedkd import simulate
from fedkd.losses import cskd_loss


def test_each_sample_meets_another_one_of_its_class() -> None:
    labels = torch.tensor([3, 1, 3, 1, 1, 0, 3])
    rng = torch.Generator().manual_seed(0)
    met: dict[int, set[int]] = {place: set() for place in range(len(labels))}
    for _ in range(200):
        chosen = torch.randperm(len(labels), generator=rng)
        for place, partner in zip(chosen.tolist(), partners(labels, chosen, rng).tolist(), strict=True):
            met[place].add(partner)
    assert met == {0: {2, 6}, 1: {3, 4}, 2: {0, 6}, 3: {1, 4}, 4: {1, 3}, 5: {5}, 6: {0, 2}}  # 5 is alone


def test_partners_are_drawn_evenly() -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    drawn = partners(labels, torch.zeros(9000, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert torch.bincount(drawn, minlength=4).tolist() == pytest.approx([0, 3000, 3000, 3000], abs=200)


def test_batches_are_pairs_and_every_sample_is_learned_once_an_epoch() -> None:
    client = client_of(tiny(CSKD(), train={"batch_size": 8, "epochs": 2}, data={"public": 0}))
    data = client.train.labelled()
    labels = data.samples.labels[data.samples.indices]
    draws = paired_draws(data)
    learned = torch.cat([draw.positions[: len(draw.positions) // 2] for draw in draws])
    assert torch.bincount(learned).tolist() == [2] * len(data)
    for draw in draws:
        first, second = draw.positions.chunk(2)
        assert torch.equal(labels[first], labels[second])


@pytest.mark.recomputed("cskd", by="formula")
def test_a_step_descends_the_loss_of_the_paper() -> None:
    client = client_of(tiny(CSKD(temperature=3.0, weight=2.0), train={"batch_size": 64, "lr": 1e-9}, data={"public": 0}))
    strategy: Any = client.experiment.strategy
    net = client.net()
    broadcast = strategy.first_broadcast(client)
    data = client.train.labelled()
    batch = data.batch(paired_draws(data)[0])
    first, second = (net(half) for half in batch.inputs.chunk(2))
    whole = cskd_loss(first, second, batch.labels.chunk(2)[0], temperature=3.0, weight=2.0)
    upload = strategy.client_update(client, broadcast)
    assert upload.metrics["loss"] == pytest.approx(whole.item(), rel=1e-5)
    assert upload.metrics["distillation"] > 0


def test_partners_alone_move_the_net() -> None:
    """Of the loss's two parts the second changes what is learned."""
    learned = []
    for weight in (0.0, 5.0):
        client = client_of(tiny(CSKD(weight=weight), train={"lr": 0.1}, data={"public": 0}))
        strategy: Any = client.experiment.strategy
        learned.append(strategy.client_update(client, strategy.first_broadcast(client)).tensors)
    assert any(not torch.equal(tensor, learned[1][name]) for name, tensor in learned[0].items())


def test_without_weight_and_with_one_client_it_is_plain_training() -> None:
    """The same batches in the same order as FedAvg's."""
    rows = [
        simulate(tiny(strategy, data={"clients": 1, "public": 0}, rounds=2)).metrics[-1]
        for strategy in (CSKD(weight=0.0), "fedavg")
    ]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-5)


def test_weights_travel_both_ways() -> None:
    net = 4 * (64 * 8 + 8 + 8 * 10 + 10)
    row = simulate(tiny(CSKD(), data={"public": 0})).metrics[1]
    assert (row["bytes_up"], row["bytes_down"]) == (2 * net, 2 * net)
