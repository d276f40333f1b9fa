"""FFL: exchanged and joint training side by side, what the fusion's loss moves, what travels, and who may be missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fedkd.strategies.ffl import FFL
from public_runs import client_of
from test_okddip import after_a_round, assert_equal_weights, batch_of, jointly, peers
from torch import Tensor, nn

from fedkd import Batch, Client, Experiment, InputError, Knowledge, simulate
from fedkd.losses import cross_entropy_loss, kd_loss
from fedkd.methods.peers.all_outputs import AllOutputs
from fedkd.methods.peers.turns import plan
from fedkd.targets import mean_logits


def fusing(strategy: Any, clients: int = 2, **changes: Any) -> Experiment:
    """So many clients with the same 48 digits, in two batches of 24, each with a net whose last map is 8x2x2."""
    train = {"lr": 0.02, "batch_size": 24, "epochs": 2, **changes.pop("train", {})}
    return peers(strategy, clients, **{"nets": "cnn", "train": train, **changes})


def parts_of(client: Client) -> dict[str, nn.Module]:
    """A client's net and fusion, as its strategy keeps them."""
    trained: nn.Module = client.experiment.strategy.peer(client).net  # type: ignore[attr-defined]
    return dict(trained.named_children())


def joint_losses(net: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
    """FFL of all nets in one process, with one fusion whose maps are live, as the official code has it."""
    outputs = [each.outputs(batch.inputs) for name, each in net.items() if name != "fusion"]  # type: ignore[operator]
    fused = net["fusion"](torch.stack([F.relu(each.maps[-1]) for each in outputs], 1))[1]
    mean = mean_logits(torch.stack([each.logits for each in outputs])).logits()
    labels = [cross_entropy_loss(logits, batch.labels) for logits in (*(each.logits for each in outputs), fused)]
    taught = [kd_loss(each.logits, fused, temperature=3.0) for each in outputs]
    return {"cross_entropy": sum(labels), "distillation": sum(taught) + kd_loss(fused, mean, temperature=3.0)}  # type: ignore[dict-item]


@pytest.mark.recomputed("ffl", by="formula")
@pytest.mark.slow
@pytest.mark.parametrize(("clients", "optimizer"), [(2, "sgd"), (3, "adam")])
def test_exchanged_with_replicas_of_the_fusion_is_joint_training(clients: int, optimizer: str) -> None:
    lr = {"sgd": 0.02, "adam": 0.002}[optimizer]
    experiment = fusing(FFL(ramp=0), clients, train={"lr": lr, "optimizer": optimizer})
    fresh = [parts_of(client_of(experiment, id)) for id in range(clients)]
    joint = nn.ModuleDict({str(id): parts["net"] for id, parts in enumerate(fresh)} | {"fusion": fresh[0]["fusion"]})
    before = fresh[0]["fusion"].classifier.weight.clone()  # type: ignore[union-attr, operator]
    jointly(experiment, joint, joint_losses)
    found = [parts_of(client) for client in after_a_round(experiment)]
    for id, parts in enumerate(found):
        assert_equal_weights(parts["net"], joint[str(id)])
        assert_equal_weights(parts["fusion"], joint["fusion"])
    replicas = [parts["fusion"].state_dict() for parts in found]
    assert all(torch.equal(tensor, replicas[1][name]) for name, tensor in replicas[0].items())
    assert not torch.allclose(before, joint["fusion"].classifier.weight, atol=1e-5)  # type: ignore[arg-type, union-attr]


def losses_of(experiment: Experiment) -> tuple[dict[str, nn.Module], dict[str, Tensor], AllOutputs]:
    """A client's parts, what it loses of its first batch, and what it was told."""
    client, batch = client_of(experiment), batch_of(experiment)
    peer = experiment.strategy.peer(client)  # type: ignore[attr-defined]
    own = peer.forward(batch)
    rng = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.stack([mine.detach(), torch.randn(mine.shape, generator=rng).relu()]).requires_grad_()
        for name, mine in own.items()
    }
    told = AllOutputs((0, 1), 0, tensors, {})
    return parts_of(client), peer.loss(own, told, batch), told


def test_the_fusions_labels_move_the_nets_and_what_it_teaches_does_not_move_it() -> None:
    parts, losses, told = losses_of(fusing(FFL(ramp=0)))
    losses["fusion_cross_entropy"].backward(retain_graph=True)
    convolutions = parts["net"].encoder.convolutions  # type: ignore[union-attr]
    assert all(bool(layer.weight.grad.any()) for layer in convolutions)  # type: ignore[union-attr]
    assert all(bool(parameter.grad.any()) for parameter in parts["fusion"].parameters())  # type: ignore[union-attr]
    for part in parts.values():
        part.zero_grad()
    losses["distillation"].backward()
    assert all(parameter.grad is None for parameter in parts["fusion"].parameters())
    assert any(bool(parameter.grad.any()) for parameter in parts["net"].parameters() if parameter.grad is not None)
    assert told.tensors["logits"].grad is None


@pytest.mark.recomputed("ffl", by="formula")
def test_the_losses_by_hand() -> None:
    parts, losses, told = losses_of(fusing(FFL(ramp=0)))
    parts["fusion"].train()
    mine, other = told.tensors["logits"].detach()
    fused = parts["fusion"](told.tensors["map"].detach().transpose(0, 1))[1]

    def distance(learner: Tensor, target: Tensor) -> float:
        divergence = F.kl_div((learner / 3).log_softmax(1), (target / 3).softmax(1), reduction="batchmean")
        return 9 * divergence.item()

    assert losses["distillation"].item() == pytest.approx(distance(mine, fused), rel=1e-3)
    assert losses["fusion_distillation"].item() == pytest.approx(distance(fused, (mine + other) / 2), rel=1e-3)


@pytest.mark.slow
def test_logits_and_the_last_map_travel_both_ways() -> None:
    experiment = fusing(FFL(), 3)
    row, samples = simulate(experiment).metrics[1], 2 * len(plan(client_of(experiment)).data)
    assert row["bytes_up"] == 3 * 4 * samples * (10 + 8 * 2 * 2)
    assert row["bytes_down"] == 3 * row["bytes_up"]


@pytest.mark.slow
def test_the_weight_grows_over_the_ramp_and_is_reported() -> None:
    rows = simulate(fusing(FFL(ramp=0.5), rounds=4, evaluate_every=4)).metrics
    assert [row["distillation_weight"] for row in rows[1:]] == pytest.approx([0.0067, 0.2865, 1.0, 1.0], abs=1e-4)


@pytest.mark.slow
def test_who_is_missing_is_a_map_of_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    update = FFL.client_update

    def broken(self: FFL, client: Client, broadcast: Knowledge) -> Knowledge:
        if client.id == 1:
            raise RuntimeError("no power")
        return update(self, client, broadcast)

    monkeypatch.setattr(FFL, "client_update", broken)
    lines = [row for row in simulate(fusing(FFL(ramp=0), 3)).clients if row["round"]]
    assert [row["status"] for row in lines] == ["ok", "failed", "ok"]
    assert lines[0]["distillation"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"clients": 1}}, "data.clients: FFL fuses the maps of several peers: set it to 2 or more"),
        ({"nets": "mlp"}, "nets: net 'mlp' has 0 feature maps, not 1 or more: take a cnn, cnn1d or resnet18"),
        ({"nets": {"cnn": 0.5, "resnet18": 0.5}}, "the same net at all clients"),
        ({"train": {"batch_size": 1}}, "train.batch_size: FFL needs statistics of a batch: set it to 2"),
    ],
)
def test_what_cannot_be_fused_is_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fusing(FFL(), **changes)


@pytest.mark.slow
def test_peers_learn_digits_better_than_nets_alone() -> None:
    settings = {"rounds": 10, "evaluate_every": 10, "data": {"clients": 2, "partition": "shared"}}
    train = {"lr": 0.05, "batch_size": 32}
    taught, alone = (
        simulate(Experiment(strategy=name, nets="cnn", train=train, **settings)).metrics[-1] for name in ("ffl", "local")
    )
    assert taught["accuracy"] > alone["accuracy"]
