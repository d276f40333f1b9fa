"""FCCL+: correlations and similarities over public batches, and the order of wrong classes kept at home."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.fccl_plus import FCCLPlus
from public_runs import client_of, server_of, tiny

from fedkd import Client, Experiment, InputError, Knowledge, Server, simulate
from fedkd.losses import fccl_loss, instance_similarity_loss
from fedkd.methods.peers.lockstep import BESIDE


def uploaded(strategy: FCCLPlus, server: Server, tensors: dict[str, torch.Tensor]) -> Knowledge:
    header = {"batch": strategy._batches(server).digest(server.exchange)}
    return Knowledge(tensors, {"logits": "logits", "similarities": "embedding"}, header)


def says(strategy: FCCLPlus, server: Server, logits: torch.Tensor, similarities: torch.Tensor) -> Knowledge:
    upload = uploaded(strategy, server, {"logits": logits, "similarities": similarities})
    strategy.check_upload(server, upload)
    return upload


@pytest.mark.recomputed("fccl_plus", by="hand")
def test_all_hear_the_means_of_all() -> None:
    strategy = FCCLPlus(public_batch_size=20)
    server = server_of(tiny(strategy, data={"clients": 3}))
    tables = [(torch.full((20, 10), value), torch.full((20, 19), value / 10)) for value in (1.0, 2.0, 6.0)]
    told = strategy.server_update(server, {k: says(strategy, server, *table) for k, table in enumerate(tables)})
    assert torch.allclose(told.tensors[BESIDE + "logits"], torch.full((20, 10), 3.0))
    assert torch.allclose(told.tensors[BESIDE + "similarities"], torch.full((20, 19), 0.3))
    assert told.header["peers"] == "0,1,2"


def step(strategy: FCCLPlus) -> tuple[Client, list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """A client after a step towards others' logits and similarities: its weights before and after, the gradient by hand."""
    client = client_of(tiny(strategy))
    own = strategy.client_update(client, Knowledge()).tensors
    net, batch = client.net(), strategy._batches(client).batch(0)
    rng = torch.Generator().manual_seed(0)
    logits, cosines = torch.randn(20, 10, generator=rng), torch.rand(20, 19, generator=rng)
    features = net.features(batch.inputs)
    expected = fccl_loss(net.head("classifier", features), (own["logits"] + logits) / 2)
    similar = instance_similarity_loss(
        features, (own["similarities"] + cosines) / 2, temperature=strategy.similarity_temperature
    )
    gradients = torch.autograd.grad(expected + strategy.similarity_weight * similar, list(net.parameters()))
    before = [parameter.detach().clone() for parameter in net.parameters()]
    server = server_of(client.experiment)
    mine = says(strategy, server, own["logits"], own["similarities"])
    told: Any = strategy.server_update(server, {0: mine, 1: says(strategy, server, logits, cosines)})
    client.exchange = 1
    strategy.client_update(client, told)
    return client, before, [parameter.detach() for parameter in net.parameters()], list(gradients)


@pytest.mark.recomputed("fccl_plus", by="formula")
@pytest.mark.parametrize("similarity_weight", [3.0, 0.0])
def test_the_step_is_adams_first_down_the_sum_of_both(similarity_weight: float) -> None:
    _, before, after, gradients = step(FCCLPlus(public_batch_size=20, similarity_weight=similarity_weight))
    for old, new, gradient in zip(before, after, gradients, strict=True):
        felt = gradient.abs() > 1e-4  # not the last bias's: the correlation does not see it
        expected = -1e-3 * gradient / (gradient.abs() + 3e-4)
        torch.testing.assert_close((new - old)[felt], expected[felt], atol=2e-5, rtol=0)
    assert sum(int((gradient.abs() > 1e-4).sum()) for gradient in gradients) > 100


def test_the_first_round_has_no_net_of_last_time_and_the_second_has() -> None:
    strategy = FCCLPlus(public_samples=20, public_batch_size=20)
    client, server = client_of(tiny(strategy)), server_of(tiny(strategy))
    found = []
    for round in (1, 2):
        for node in (client, server):
            node.round, node.exchange = round, 0
        own = strategy.client_update(client, Knowledge()).tensors
        told = strategy.server_update(server, {0: says(strategy, server, own["logits"], own["similarities"])})
        client.exchange = 1
        found.append(strategy.client_update(client, told).metrics)
        held = client.net("last").state_dict()
        assert all(torch.equal(held[name], tensor) for name, tensor in client.net().state_dict().items())
    assert found[0].keys() == {"correlation", "relation", "cross_entropy", "loss"}
    assert found[1].keys() == {*found[0], "not_true"} and found[1]["not_true"] > 0


def test_logits_and_similarities_of_public_batches_are_all_that_travels() -> None:
    """4 B (C + B - 1) a batch, client and way: batches of 20 and 10, 10 classes, 2 clients."""
    last = simulate(tiny(FCCLPlus(public_batch_size=20))).metrics[1]
    assert last["bytes_up"] == last["bytes_down"] == 2 * 4 * (20 * (10 + 19) + 10 * (10 + 9))


def test_similarities_beyond_one_are_refused() -> None:
    strategy = FCCLPlus(public_batch_size=20)
    server = server_of(tiny(strategy))
    with pytest.raises(ValueError, match="its similarities reach 5, and cosines are at most 1"):
        says(strategy, server, torch.zeros(20, 10), torch.full((20, 19), 5.0))


def test_it_needs_public_samples() -> None:
    with pytest.raises(InputError, match="needs a public set"):
        Experiment(strategy="fccl_plus")
