"""DCM: the losses by hand, which maps the classifiers stand on, exchanged and joint training side by side, what travels."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from fedkd.strategies.dcm import DCM, auxiliary_classifiers, crossed_distillation, intermediate, summed_cross_entropy
from public_runs import client_of
from test_okddip import after_a_round, assert_equal_weights, batch_of, jointly, peer_of, peers
from torch import Tensor, nn

from fedkd import Batch, Experiment, InputError, simulate
from fedkd.losses import cross_entropy_loss, kd_loss
from fedkd.methods.peers.all_outputs import AllOutputs
from fedkd.methods.peers.turns import plan

RESNET = {"resnet18": {"width": 4}}


def three(net: nn.ModuleDict, batch: Batch) -> tuple[Tensor, ...]:
    """The logits of a net's two classifiers on maps and of its own."""
    outputs = net["net"].outputs(batch.inputs)
    return (*net["auxiliary"](intermediate(outputs.maps)).unbind(1), outputs.logits)


def joint_losses(net: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
    """DCM of all nets in one process: every head learns from the labels and from every head of every other net."""
    heads = {name: three(each, batch) for name, each in net.items()}  # type: ignore[arg-type]
    pairs = [
        kd_loss(mine, theirs, temperature=1.0) for a, b in permutations(heads, 2) for mine in heads[a] for theirs in heads[b]
    ]
    assert len(pairs) == 9 * len(net) * (len(net) - 1)
    labels = torch.stack([cross_entropy_loss(each, batch.labels) for own in heads.values() for each in own])
    return {"cross_entropy": labels.sum(), "distillation": torch.stack(pairs).sum() / (len(net) - 1)}


@pytest.mark.recomputed("dcm", by="formula")
@pytest.mark.slow
@pytest.mark.parametrize("clients", [2, 3])
def test_exchanged_is_joint_training(clients: int) -> None:
    experiment = peers(DCM(), clients, nets="cnn", train={"lr": 0.02, "batch_size": 24, "epochs": 2})
    joint = nn.ModuleDict()
    for id in range(clients):
        client = client_of(experiment, id)
        net = client.net(init="own")
        joint[str(id)] = nn.ModuleDict({"net": net, "auxiliary": auxiliary_classifiers(client, net)})
    jointly(experiment, joint, joint_losses)
    for client in after_a_round(experiment):
        net = client.net(init="own", keep=True)
        assert_equal_weights(net, joint[str(client.id)]["net"])
        assert_equal_weights(auxiliary_classifiers(client, net), joint[str(client.id)]["auxiliary"])


@pytest.mark.recomputed("dcm", by="hand")
def test_the_losses_by_hand_and_what_they_pull() -> None:
    """Two samples, two classes: my heads say (1/2, 1/2); the other's three heads (1/2, 1/2), (1/5, 4/5) and (1/2, 1/2)."""
    mine, other = torch.zeros(2, 3, 2, requires_grad=True), torch.zeros(1, 2, 3, 2)
    other[:, :, 1, 1] = torch.tensor(4.0).log()
    other.requires_grad_()
    assert summed_cross_entropy(mine, torch.tensor([0, 1])).item() == pytest.approx(3 * 0.693147)
    found = crossed_distillation(mine, other, temperature=1.0)
    assert found.item() == pytest.approx(3 * 0.192745, rel=1e-4)  # 1/5 log(2/5) + 4/5 log(8/5), for each of my heads
    found.backward()
    assert other.grad is None
    assert all(bool(head.any()) for head in mine.grad.unbind(1))  # type: ignore[union-attr]
    unlike = torch.cat([other, torch.zeros(1, 2, 3, 2)])  # a third net that thinks as I do: the mean is half of it
    assert crossed_distillation(mine, unlike, temperature=1.0).item() == pytest.approx(1.5 * 0.192745, rel=1e-4)
    assert crossed_distillation(mine, other[:0], temperature=1.0).item() == 0


def test_the_weight_multiplies_the_distillation_and_labels_are_learned_by_all_heads() -> None:
    experiment = peers(DCM(weight=0.5), nets="cnn")
    peer, batch = peer_of(experiment, 0), batch_of(experiment)
    own = peer.forward(batch)
    heard = torch.randn(3, 24, 3, 10, generator=torch.Generator().manual_seed(0))
    parts = peer.loss(own, AllOutputs((0, 1, 2), 0, {"logits": heard}, {}), batch)
    whole = crossed_distillation(own["logits"], heard[1:], temperature=1.0)
    assert parts["distillation"].item() == pytest.approx(0.5 * whole.item())
    parts["cross_entropy"].backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in peer.net.parameters())
    assert peer.weight == 0.5


@pytest.mark.parametrize(
    ("net", "channels"),
    [("cnn", [4, 8]), ("resnet18", [8, 16])],  # both of two; of five, those of the second and third stage
)
def test_classifiers_stand_on_the_maps_before_the_last(net: str, channels: list[int]) -> None:
    experiment = peers(DCM(), nets=net, net_options={"cnn": {"channels": [4, 8]}, **RESNET})
    client = client_of(experiment)
    before = {name: tensor.clone() for name, tensor in client.net(init="own", keep=True).named_buffers()}
    auxiliary = auxiliary_classifiers(client, client.net(init="own", keep=True))
    assert [each[1].in_channels for each in auxiliary.classifiers] == channels  # type: ignore[index, union-attr]
    after = dict(client.net(init="own", keep=True).named_buffers())
    assert all(torch.equal(before[name], after[name]) for name in before)  # looking at the maps left no statistics


@pytest.mark.parametrize(
    ("nets", "options", "message"),
    [
        ("mlp", {}, "nets: net 'mlp' has 0 feature maps, not 2 or more: take a cnn, cnn1d or resnet18"),
        ({"cnn": 0.5, "mlp": 0.5}, {}, "nets: net 'mlp' has 0 feature maps"),
        ("cnn", {"cnn": {"channels": [4]}}, "nets: net 'cnn' has 1 feature maps"),
    ],
)
def test_nets_without_two_maps_are_refused_at_once(nets: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        peers(DCM(), nets=nets, net_options=options)


@pytest.mark.slow
def test_three_heads_travel_and_nets_may_differ() -> None:
    experiment = peers(DCM(), 2, nets={"cnn": 0.5, "resnet18": 0.5}, net_options={"cnn": {"channels": [4, 8]}, **RESNET})
    row, samples = simulate(experiment).metrics[1], len(plan(client_of(experiment)).data)
    assert row["bytes_up"] == 2 * 12 * samples * 10
    assert row["bytes_down"] == 2 * row["bytes_up"]
    assert row["distillation"] > 0


@pytest.mark.slow
def test_alone_or_without_weight_it_is_three_cross_entropies() -> None:
    settings = {"nets": "cnn", "rounds": 2}
    alone = simulate(peers(DCM(), 1, **settings)).clients[-1]
    among = simulate(peers(DCM(weight=0), 3, **settings)).clients[-3]
    assert alone["loss"] == alone["cross_entropy"] == among["cross_entropy"] == among["loss"]


@pytest.mark.slow
def test_all_learn_digits() -> None:
    """Seen, 8 rounds of 1150 digits, 3 peers: 93.6 to 95.5 % on the global test set."""
    settings = {"rounds": 8, "evaluate_every": 8, "data": {"clients": 3, "partition": "shared"}}
    row = simulate(Experiment(strategy="dcm", train={"lr": 0.05, "batch_size": 32}, **settings)).metrics[-1]
    assert all(accuracy > 0.9 for accuracy in row["peer_accuracies"])
