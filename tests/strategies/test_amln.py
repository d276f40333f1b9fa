"""AMLN: exchanged and joint training side by side, what each loss moves, nets that differ, what travels, who is missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.amln import AMLN, names_of
from public_runs import client_of, server_of
from test_afd import parts_of, ring, taken
from test_okddip import after_a_round, assert_equal_weights, batch_of
from torch import Tensor

from fedkd import Batch, Client, Experiment, InputError, Knowledge, simulate
from fedkd.losses import cross_entropy_loss, kd_loss
from fedkd.methods.peers.adversarial import fooling_loss, telling_loss
from fedkd.methods.peers.all_outputs import AllOutputs
from fedkd.methods.peers.maps import common_shapes
from fedkd.methods.peers.turns import plan

HEAVY = {"weight": 2.0, "discriminator_lr": 1e-3}


def joint_losses(all_parts: list[Any], batch: Batch) -> tuple[Tensor, Tensor]:
    """What all nets of one process descend, and what their discriminators do."""
    outputs = [parts["net"].outputs(batch.inputs) for parts in all_parts]
    maps = [parts["align"](each.activated) for parts, each in zip(all_parts, outputs, strict=True)]
    nets, judged = [], []
    for k, own in enumerate(outputs):
        others = [j for j in range(len(outputs)) if j != k]
        learned = [kd_loss(own.logits, outputs[j].logits, temperature=1.0) for j in others]
        nets += [cross_entropy_loss(own.logits, batch.labels), sum(learned) / len(learned)]
        for block, judge in enumerate(all_parts[k]["discriminators"]):
            nets.append(2.0 * fooling_loss(judge, maps[k][block]))
            judged.append(telling_loss(judge, maps[k][block], torch.cat([maps[j][block] for j in others])))
    return torch.stack(nets).sum(), torch.stack(judged).sum()


@pytest.mark.recomputed("amln", by="formula")
@pytest.mark.slow
@pytest.mark.parametrize("clients", [2, 3])
def test_exchanged_is_joint_training_with_discriminators_apart(clients: int) -> None:
    experiment = ring(AMLN(**HEAVY), clients)
    fresh = [client_of(experiment, id) for id in range(clients)]
    joint, work = [parts_of(client).train() for client in fresh], fresh[0].work()
    judges = [p for parts in joint for p in parts["discriminators"].parameters()]
    others = [p for parts in joint for name in ("net", "align") for p in parts[name].parameters()]
    sgd = torch.optim.SGD(others, lr=0.02, momentum=work.settings.momentum, weight_decay=work.settings.weight_decay)
    adam = torch.optim.Adam(judges, lr=1e-3, weight_decay=work.settings.weight_decay)
    for number in range(len(plan(fresh[0]).draws)):
        own, telling = joint_losses(joint, plan(fresh[0]).batch(number))
        slopes = [torch.autograd.grad(loss, moved, retain_graph=True) for loss, moved in ((own, others), (telling, judges))]
        for parameter, slope in zip([*others, *judges], [*slopes[0], *slopes[1]], strict=True):
            parameter.grad = slope
        sgd.step()
        adam.step()
    for client in after_a_round(experiment):
        for name, part in parts_of(client).items():
            assert_equal_weights(part, joint[client.id][name])


def losses_of(experiment: Experiment) -> tuple[Any, dict[str, Tensor]]:
    """A peer, and what it loses of its first batch with one other, whose outputs are random."""
    peer, rng = taken(client_of(experiment)), torch.Generator().manual_seed(0)
    batch = batch_of(experiment)
    own = dict(peer.forward(batch))
    told = {name: torch.stack([held.detach(), torch.rand(held.shape, generator=rng)]) for name, held in own.items()}
    return peer, dict(peer.loss(own, AllOutputs((0, 1), 0, told, {}), batch))


def test_every_block_is_learnt_and_the_discriminators_loss_moves_them_alone() -> None:
    peer, losses = losses_of(ring(AMLN(**HEAVY)))
    net: Any = peer.net
    losses["adversarial"].backward(retain_graph=True)
    assert all(layer[0].weight.grad.any() for layer in net["align"].layers)
    assert all(layer.weight.grad.any() for layer in net["net"].encoder.convolutions)
    net.zero_grad()
    losses["discriminator"].backward()
    assert not any(p.grad is not None and p.grad.any() for name in ("net", "align") for p in net[name].parameters())
    assert all(bool(p.grad.any()) for p in net["discriminators"].parameters())
    assert peer.optimizer is not None
    moved = {id(p) for group in peer.optimizer().param_groups for p in group["params"]}
    assert moved == {id(p) for name in ("net", "align") for p in net[name].parameters()}  # nobody helps to fool itself
    assert len(net["discriminators"]) == 2 and peer.apart["discriminators"].parts == ("discriminator",)


@pytest.mark.recomputed("amln", by="formula")
def test_a_peer_learns_from_the_mean_of_the_others() -> None:
    experiment = ring(AMLN())
    peer, batch = taken(client_of(experiment)), batch_of(experiment)
    own = dict(peer.forward(batch))
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 24, 10, generator=rng)
    maps = {name: own[name].detach().repeat(3, 1, 1, 1, 1) for name in names_of(common_shapes(client_of(experiment)))}
    told = {"logits": torch.cat([own["logits"].detach()[None], logits]), **maps}
    found = peer.loss(own, AllOutputs((0, 1, 2), 0, told, {}), batch)["distillation"]
    expected = sum(kd_loss(own["logits"], other, temperature=1.0).item() for other in logits) / 2
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_logits_and_all_aligned_maps_travel_both_ways() -> None:
    experiment = ring(AMLN())
    row, samples = simulate(experiment).metrics[1], 2 * len(plan(client_of(experiment)).data)
    assert row["bytes_up"] == 3 * 4 * samples * (10 + 4 * 4 * 4 + 8 * 2 * 2)
    assert row["bytes_down"] == 3 * row["bytes_up"]


@pytest.mark.slow
def test_nets_with_unequally_many_maps_meet_in_their_last() -> None:
    options = {"cnn": {"channels": [4, 8], "hidden": 24}, "resnet18": {"width": 4}}
    experiment = ring(AMLN(), 2, nets={"cnn": 0.5, "resnet18": 0.5}, net_options=options, data={"train_limit": 40})
    assert common_shapes(server_of(experiment)) == [(4, 2, 2), (8, 1, 1)]
    lines = [row for row in simulate(experiment).clients if row["round"]]
    assert all(row["status"] == "ok" and row["adversarial"] > 0 for row in lines)


@pytest.mark.slow
def test_who_is_alone_or_left_alone_learns_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = simulate(ring(AMLN(), 1)).metrics[1]
    assert alone["adversarial"] == alone["discriminator"] == alone["distillation"] == 0 < alone["cross_entropy"]
    update = AMLN.client_update

    def broken(self: AMLN, client: Client, broadcast: Knowledge) -> Knowledge:
        if client.id == 1 and client.round == 1:
            raise RuntimeError("no power")
        return update(self, client, broadcast)

    monkeypatch.setattr(AMLN, "client_update", broken)
    lines = [row for row in simulate(ring(AMLN(), 3, rounds=2)).clients if row["round"]]
    assert [row["status"] for row in lines] == ["ok", "failed", "ok", "ok", "ok", "ok"]
    assert all(row["adversarial"] > 0 for row in lines if row["status"] == "ok")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nets": "mlp"}, "nets: net 'mlp' has 0 feature maps, not 1 or more: take a cnn"),
        ({"train": {"batch_size": 1}}, "train.batch_size: AMLN needs statistics of a batch: set it to 2"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ring(AMLN(), **changes)


@pytest.mark.slow
def test_peers_learn_digits_better_than_nets_alone() -> None:
    settings = {"rounds": 10, "evaluate_every": 10, "data": {"clients": 2, "partition": "shared"}}
    train = {"lr": 0.05, "batch_size": 32}
    taught, alone = (
        simulate(Experiment(strategy=name, nets="cnn", train=train, **settings)).metrics[-1] for name in ("amln", "local")
    )
    assert taught["accuracy"] > alone["accuracy"]
