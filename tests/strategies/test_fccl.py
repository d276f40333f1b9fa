"""FCCL: correlations over public batches, Adam's first step on each, and two earlier nets that hold a client back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.fccl import FCCL
from public_runs import client_of, server_of, tiny
from torch import Tensor

from fedkd import Client, Experiment, InputError, Knowledge, RunFailed, Server, simulate
from fedkd.losses import fccl_loss
from fedkd.methods.peers.lockstep import BESIDE


def public_batch(client: Client, strategy: FCCL, number: int = 0) -> Any:
    """A batch of the round, as all take it."""
    return strategy._batches(client).batch(number).inputs


def hears(strategy: FCCL, server: Server, said: dict[int, Tensor]) -> Any:
    digest = strategy._batches(server).digest(server.exchange)
    uploads = {k: Knowledge.of("logits", {"logits": table}, header={"batch": digest}) for k, table in said.items()}
    for upload in uploads.values():
        strategy.check_upload(server, upload)
    return strategy.server_update(server, uploads)


def test_each_hears_the_mean_of_the_others() -> None:
    strategy = FCCL(public_batch_size=20)
    server = server_of(tiny(strategy, data={"clients": 3}))
    told = hears(strategy, server, {k: torch.full((20, 10), value) for k, value in enumerate((1.0, 2.0, 6.0))})
    assert {k: float(knowledge.tensors[BESIDE + "logits"].mean()) for k, knowledge in told.items()} == {0: 4.0, 1: 3.5, 2: 1.5}
    alone = hears(strategy, server, {1: torch.ones(20, 10)})[1]
    assert not alone.tensors[BESIDE + "logits"].any() and alone.header["peers"] == "1"


@pytest.mark.recomputed("fccl", by="formula")
def test_the_target_is_the_mean_of_all_with_ones_last_net_in_ones_own_place() -> None:
    """Of three: 1/3 of what the client's net of last round says, 2/3 of the others' mean. The step is 0.001, up or down."""
    strategy = FCCL(public_batch_size=20, warm_up_epochs=1)
    client = client_of(tiny(strategy, data={"clients": 3}))
    own = strategy.client_update(client, Knowledge()).tensors["logits"]
    net, last = client.net(), client.net("last")
    with torch.no_grad():
        assert torch.equal(last(public_batch(client, strategy)), own)  # it has only warmed up
    others = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    expected = fccl_loss(net(public_batch(client, strategy)), own / 3 + others * 2 / 3)
    gradients = torch.autograd.grad(expected, list(net.parameters()))
    before = [parameter.detach().clone() for parameter in net.parameters()]
    told = hears(strategy, server_of(client.experiment), {0: own, 1: others, 2: others})[0]
    client.exchange = 1
    strategy.client_update(client, told)
    for old, parameter, gradient in zip(before, net.parameters(), gradients, strict=True):
        felt, step = gradient.abs() > 1e-4, -1e-3 * gradient / (gradient.abs() + 3e-4)
        torch.testing.assert_close((parameter - old)[felt], step[felt], atol=2e-5, rtol=0)


def test_a_client_trains_alone_once_and_keeps_that_net() -> None:
    strategy = FCCL(public_samples=20, public_batch_size=20, warm_up_epochs=2)
    client, server = client_of(tiny(strategy, train={"lr": 0.1})), server_of(tiny(strategy))
    fresh = {name: tensor.clone() for name, tensor in client.net(init="own", keep=True).state_dict().items()}
    for round in (1, 2):
        for node in (client, server):
            node.round, node.exchange = round, 0
        own = strategy.client_update(client, Knowledge()).tensors["logits"]
        if round == 1:
            alone = {name: tensor.clone() for name, tensor in client.net("alone").state_dict().items()}
            assert not torch.equal(alone["heads.classifier.weight"], fresh["heads.classifier.weight"])
        told = hears(strategy, server, {0: own, 1: own.flip(0)})[0]
        client.exchange = 1
        metrics = strategy.client_update(client, told).metrics
        assert metrics.keys() == {"correlation", "cross_entropy", "alone_distillation", "last_distillation", "loss"}
        assert min(metrics.values()) > 0
        held = client.net("last").state_dict()
        assert all(torch.equal(held[name], tensor) for name, tensor in client.net().state_dict().items())
    assert all(torch.equal(client.net("alone").state_dict()[name], tensor) for name, tensor in alone.items())


def test_the_earlier_nets_hold_the_client_back() -> None:
    def moved(weight: float) -> float:
        strategy = FCCL(public_samples=20, public_batch_size=20, public_lr=1e-9, warm_up_epochs=1, weight=weight)
        client = client_of(tiny(strategy, train={"lr": 0.1, "epochs": 10}))
        own = strategy.client_update(client, Knowledge()).tensors["logits"]
        told = hears(strategy, server_of(client.experiment), {0: own})[0]
        client.exchange = 1
        strategy.client_update(client, told)
        pair = (client.net().state_dict(), client.net("alone").state_dict())
        return sum(float((pair[0][name] - pair[1][name]).square().sum()) for name in pair[0])

    assert moved(5.0) < 0.5 * moved(0.0)


def test_logits_of_public_batches_are_all_that_travels() -> None:
    """8 P C bytes a round and client: 30 public samples in batches of 20 and 10, 10 classes, 2 clients; three exchanges."""
    experiment = tiny(FCCL(public_batch_size=20, warm_up_epochs=1))
    assert FCCL(public_batch_size=20).exchanges_per_round(experiment) == 3
    last = simulate(experiment).metrics[1]
    assert last["bytes_up"] == last["bytes_down"] == 2 * 4 * 30 * 10
    assert FCCL(public_samples=7, public_batch_size=3).exchanges_per_round(experiment) == 3  # 3 and 4: none of one alone


def test_batch_statistics_move_once_a_step() -> None:
    """With a net that has them: as many updates as public batches and own ones."""
    data, options = {"clients": 2, "partition": "iid", "train_limit": 70, "public": 30}, {"resnet18": {"width": 2}}
    strategy = FCCL(public_batch_size=15, warm_up_epochs=1)
    experiment = Experiment(strategy=strategy, rounds=1, nets="resnet18", net_options=options, data=data)
    client, server = client_of(experiment), server_of(experiment)
    steps = len(list(client.train.draws(epochs=1, batch_size=64, rng=torch.Generator())))
    broadcast = Knowledge()
    for exchange in range(3):
        client.exchange = server.exchange = exchange
        upload = strategy.client_update(client, broadcast)
        if exchange < 2:
            broadcast = hears(strategy, server, {0: upload.tensors["logits"]})[0]
    counters = [value for name, value in client.net().state_dict().items() if name.endswith("num_batches_tracked")]
    assert {int(count) for count in counters} == {steps + 2 + steps}


def test_one_public_sample_is_refused_and_so_is_none() -> None:
    with pytest.raises(InputError, match="needs a public set"):
        Experiment(strategy="fccl")
    with pytest.raises((InputError, RunFailed), match="batch of one public sample has no deviation"):
        simulate(tiny(FCCL(public_samples=1)))


@pytest.mark.slow
def test_on_unevenly_labelled_digits_it_beats_training_alone() -> None:
    """5 clients, two kinds of nets, 400 public digits, 31 own epochs against 30."""
    data = {"clients": 5, "partition": "dirichlet", "alpha": 1.0, "self_balancing": True, "public": 400, "train_limit": 650}
    train, nets = {"epochs": 3, "batch_size": 16, "optimizer": "adam", "lr": 0.001}, {"cnn": 0.5, "mlp": 0.5}

    def reached(strategy: dict[str, Any]) -> float:
        runs = [
            simulate(Experiment(strategy=strategy, seed=seed, rounds=10, evaluate_every=10, nets=nets, data=data, train=train))
            for seed in range(2)
        ]
        return float(sum(run.metrics[-1]["accuracy"] for run in runs)) / len(runs)

    assert reached({"name": "fccl", "public_batch_size": 50, "warm_up_epochs": 1}) > reached({"name": "local"}) + 0.05
