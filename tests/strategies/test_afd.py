"""AFD: what each optimiser moves, the losses by hand, exchanged and joint training, who hears whom, nets that differ."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.afd import AFD, before_in_ring
from public_runs import client_of, server_of
from test_okddip import after_a_round, assert_equal_weights, batch_of, peers
from torch import Tensor, nn

from fedkd import Client, Experiment, InputError, Knowledge, simulate
from fedkd.losses import cross_entropy_loss, kd_loss
from fedkd.methods.peers.adversarial import Discriminator, fooling_loss, telling_loss
from fedkd.methods.peers.all_outputs import AllOutputs
from fedkd.methods.peers.lockstep import Peer
from fedkd.methods.peers.maps import common_shapes
from fedkd.methods.peers.turns import plan

FAST = {"feature_lr": 1e-3, "feature_decay": 0.0}


def ring(strategy: Any, clients: int = 3, **changes: Any) -> Experiment:
    """So many clients with the same 48 digits, in two batches of 24, each with a net whose last map is 8x2x2."""
    return peers(strategy, clients, **{"nets": "cnn", "train": {"lr": 0.02, "batch_size": 24, "epochs": 2}, **changes})


def taken(client: Client) -> Peer:
    """What a client takes its turn as."""
    peer: Peer = client.experiment.strategy.peer(client)  # type: ignore[attr-defined]
    return peer


def parts_of(client: Client) -> Any:
    """A client's net and discriminator, as its strategy keeps them."""
    return taken(client).net


def joint_step(all_parts: list[Any], batch: Any, optimizers: list[tuple[Any, Any, Any]]) -> None:
    """A step of all nets of one process: all gradients of one pass, then all steps."""
    outputs = [parts["net"].outputs(batch.inputs) for parts in all_parts]
    maps = [each.activated[-1] for each in outputs]
    tasks = []
    for k, (own, features, telling) in enumerate(optimizers):
        mine, discriminator = outputs[k].logits, all_parts[k]["discriminator"]
        learned = [kd_loss(mine, other.logits, temperature=3.0) for j, other in enumerate(outputs) if j != k]
        loss = cross_entropy_loss(mine, batch.labels) + sum(learned) / len(learned)
        tasks += [
            (loss, own),
            (fooling_loss(discriminator, maps[k]), features),
            (telling_loss(discriminator, maps[k], maps[k - 1]), telling),
        ]
    moved = [[p for group in optimizer.param_groups for p in group["params"]] for _, optimizer in tasks]
    found = [
        torch.autograd.grad(loss, each, retain_graph=True, allow_unused=True)
        for (loss, _), each in zip(tasks, moved, strict=True)
    ]
    for (_, optimizer), each, gradients in zip(tasks, moved, found, strict=True):
        for parameter, gradient in zip(each, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()


@pytest.mark.recomputed("afd", by="formula")
@pytest.mark.slow
def test_exchanged_is_joint_training_with_three_optimisers_a_peer() -> None:
    experiment = ring(AFD(**FAST))
    fresh = [client_of(experiment, id) for id in range(3)]
    joint, settings = [parts_of(client).train() for client in fresh], fresh[0].work().settings
    optimizers = [
        (
            torch.optim.SGD(parts["net"].parameters(), lr=0.02, momentum=settings.momentum, weight_decay=settings.weight_decay),
            torch.optim.Adam(parts["net"].encoder.parameters(), lr=1e-3, weight_decay=0.0),
            torch.optim.Adam(parts["discriminator"].parameters(), lr=1e-3, weight_decay=0.0),
        )
        for parts in joint
    ]
    for number in range(len(plan(fresh[0]).draws)):
        joint_step(joint, plan(fresh[0]).batch(number), optimizers)
    for client in after_a_round(experiment):
        found = parts_of(client)
        for name in ("net", "discriminator"):
            assert_equal_weights(found[name], joint[client.id][name])


def losses_of(experiment: Experiment, told: bool = True) -> tuple[Peer, dict[str, Tensor], dict[str, Tensor]]:
    """A peer, what it computed of its first batch, and what it loses."""
    client, batch = client_of(experiment), batch_of(experiment)
    peer = taken(client)
    own = dict(peer.forward(batch))
    logits = torch.stack([own["logits"].detach(), torch.randn(24, 10, generator=torch.Generator().manual_seed(0))])
    heard = {"map": torch.rand(own["map"].shape, generator=torch.Generator().manual_seed(1))} if told else {}
    ids = (0, 1) if told else (0,)
    return peer, own, dict(peer.loss(own, AllOutputs(ids, 0, {"logits": logits[: len(ids)]}, heard), batch))


def test_the_adversarial_loss_moves_the_net_to_its_features_and_no_more() -> None:
    peer, _, losses = losses_of(ring(AFD()))
    assert peer.apart["features"].parts == ("adversarial",)
    moved = {id(parameter) for parameter in peer.apart["features"].module.parameters()}
    net: Any = peer.net
    assert moved == {id(parameter) for parameter in net["net"].encoder.parameters()}
    losses["adversarial"].backward(retain_graph=True)
    assert all(layer.weight.grad.any() for layer in net["net"].encoder.convolutions)
    assert all(parameter.grad is None for parameter in net["net"].heads.parameters())
    net.zero_grad()
    losses["discriminator"].backward()
    assert all(parameter.grad is None for parameter in net["net"].parameters())
    assert all(bool(parameter.grad.any()) for parameter in net["discriminator"].parameters())


def test_the_logit_loss_leaves_the_discriminator_alone_and_each_loss_has_its_optimiser() -> None:
    """With hardly any rate for one of them, it does not move, and the other does."""
    for rate, still in (({"lr": 1e-12}, False), ({"lr": 0.05}, True)):
        experiment = ring(AFD(feature_lr=1e-12 if still else 1e-3), 2, train={"batch_size": 24, **rate})
        before = {k: v.clone() for k, v in parts_of(client_of(experiment)).state_dict().items()}
        after = parts_of(after_a_round(experiment)[0]).state_dict()
        moved = {name for name in before if not torch.allclose(before[name], after[name], atol=1e-7)}
        assert any("classifier" in name for name in moved) == still
        assert any("discriminator" in name for name in moved) == (not still)
        assert any("convolutions" in name for name in moved)


@pytest.mark.recomputed("afd", by="hand")
def test_of_equal_maps_a_discriminator_is_at_best_as_good_as_a_constant_half() -> None:
    maps = torch.randn(64, 8, 2, 2)

    def says(value: float) -> nn.Module:
        module = nn.Module()
        module.forward = lambda held: torch.full((len(held),), value)  # type: ignore[method-assign]
        return module

    losses = {value: telling_loss(says(value), maps, maps).item() for value in (0.0, 0.3, 0.5, 0.7, 1.0)}
    assert min(losses, key=losses.get) == 0.5 and losses[0.5] == pytest.approx(0.5)  # type: ignore[arg-type]
    assert fooling_loss(says(0.25), maps).item() == pytest.approx(0.5625)


def test_a_discriminator_learns_to_tell_maps_apart_and_a_net_to_fool_it() -> None:
    torch.manual_seed(0)
    judge, other = Discriminator(4), torch.rand(64, 4, 2, 2) + 0.5
    own = nn.Parameter(torch.rand(64, 4, 2, 2))
    optimizer = torch.optim.Adam(judge.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        telling_loss(judge, own, other).backward()
        optimizer.step()
    assert telling_loss(judge, own, other) < 0.2
    mover = torch.optim.Adam([own], lr=0.02)
    for _ in range(60):
        mover.zero_grad()
        fooling_loss(judge, own).backward()
        mover.step()
    assert own.mean() > 0.7  # from a half towards one


@pytest.mark.parametrize(
    ("me", "ids", "before"), [(0, [0, 1, 2], 2), (1, [0, 1], 0), (0, [0, 1], 1), (2, [2, 0], 0), (5, [5], None)]
)
def test_the_ring_closes_around_who_is_missing(me: int, ids: list[int], before: int | None) -> None:
    assert before_in_ring(me, ids) == before


@pytest.mark.slow
def test_all_logits_and_one_map_come_down() -> None:
    experiment = ring(AFD(), 3)
    row, samples = simulate(experiment).metrics[1], 2 * len(plan(client_of(experiment)).data)
    assert row["bytes_up"] == 3 * 4 * samples * (10 + 32)
    assert row["bytes_down"] == 3 * 4 * samples * (3 * 10 + 32)


@pytest.mark.slow
def test_who_is_missing_is_passed_over_and_one_alone_learns_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    update = AFD.client_update

    def broken(self: AFD, client: Client, broadcast: Knowledge) -> Knowledge:
        if client.id == 1 and client.round == 1:
            raise RuntimeError("no power")
        return update(self, client, broadcast)

    monkeypatch.setattr(AFD, "client_update", broken)
    lines = [row for row in simulate(ring(AFD(**FAST), 3, rounds=2)).clients if row["round"]]
    assert [row["status"] for row in lines] == ["ok", "failed", "ok", "ok", "ok", "ok"]
    assert all(row["adversarial"] > 0 for row in lines if row["status"] == "ok")
    alone = simulate(ring(AFD(), 1)).metrics[1]
    assert alone["adversarial"] == alone["discriminator"] == alone["distillation"] == 0 < alone["cross_entropy"]


def test_alone_neither_the_rate_nor_the_decay_of_features_moves_anything() -> None:
    """Adam would take steps of its full rate down the weight decay alone."""
    plain, fast = (
        simulate(ring(AFD(feature_lr=rate, feature_decay=decay), 1)).metrics[1] for rate, decay in ((2e-5, 0.0), (0.05, 0.1))
    )
    assert plain["loss"] == fast["loss"] and plain["accuracy"] == fast["accuracy"]


@pytest.mark.slow
def test_maps_of_nets_that_differ_meet_in_the_smallest_shape() -> None:
    options = {"cnn": {"channels": [4, 8], "hidden": 24}, "resnet18": {"width": 4}}
    experiment = ring(AFD(**FAST), 2, nets={"cnn": 0.5, "resnet18": 0.5}, net_options=options, data={"train_limit": 40})
    assert common_shapes(server_of(experiment))[-1] == (8, 1, 1)  # of 8x2x2 and 32x1x1
    lines = [row for row in simulate(experiment).clients if row["round"]]
    assert all(row["status"] == "ok" and row["adversarial"] > 0 for row in lines)


def test_nets_without_maps_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="nets: net 'mlp' has 0 feature maps, not 1 or more: take a cnn"):
        ring(AFD(), nets={"cnn": 0.5, "mlp": 0.5})


@pytest.mark.slow
def test_peers_learn_digits_better_than_nets_alone() -> None:
    settings = {"rounds": 10, "evaluate_every": 10, "data": {"clients": 3, "partition": "shared"}}
    train = {"lr": 0.05, "batch_size": 32}
    taught, alone = (
        simulate(Experiment(strategy=name, nets="cnn", train=train, **settings)).metrics[-1] for name in ("afd", "local")
    )
    assert taught["accuracy"] > alone["accuracy"]
