"""DML: its loss by hand for three peers, what is constant in it, its weight, and that peers learn digits together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.dml import DML
from test_lockstep import node_of, peers
from torch import Tensor

from fedkd import Batch, Experiment, InputError, simulate
from fedkd.methods.peers.all_outputs import AllOutputs
from fedkd.methods.peers.lockstep import Peer
from fedkd.methods.peers.turns import plan

#: What three peers say of two samples of two classes: probabilities of the first class.
SAID = torch.tensor([[0.5, 0.2], [0.8, 0.5], [0.9, 0.1]], dtype=torch.float64)


def logits_of(probabilities: Tensor) -> Tensor:
    """Logits (..., 2) of the probabilities of the first of two classes."""
    return torch.stack([probabilities.log(), (1 - probabilities).log()], -1)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of two classes, by the probability of the first, averaged over samples."""
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()


def peer_of(strategy: DML, *, round: int = 1, rounds: int = 1) -> Peer:
    """Peer 1 of three."""
    return strategy.peer(node_of(peers(strategy, nets="mlp", rounds=rounds), 1, round=round))


def parts(strategy: DML, **when: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The loss of peer 1 of three, its own logits, and what all said."""
    said, mine = logits_of(SAID).requires_grad_(), logits_of(SAID[1]).requires_grad_()
    batch = object.__new__(Batch)
    work = node_of(peers(strategy, nets="mlp"), 1).work()
    batch.__dict__.update(labels=torch.tensor([0, 1]), _work=work, _class_weights=None)
    loss = peer_of(strategy, **when).loss({"logits": mine}, AllOutputs((0, 1, 2), 1, {"logits": said}, {}), batch)
    return dict(loss), mine, said


@pytest.mark.recomputed("dml", by="formula")
def test_the_mean_of_the_divergences_from_each_of_the_others() -> None:
    found, _, _ = parts(DML(weight=3.0))
    expected = 3 * (divergence(SAID[0], SAID[1]) + divergence(SAID[2], SAID[1])) / 2
    assert found["cross_entropy"].item() == pytest.approx(-(torch.tensor(0.8).log() + torch.tensor(0.5).log()).item() / 2)
    assert found["distillation"].item() == pytest.approx(expected.item())
    assert found.keys() == {"cross_entropy", "distillation"}


@pytest.mark.recomputed("dml", by="formula")
def test_the_divergence_from_the_mean_of_the_others() -> None:
    found, _, _ = parts(DML(target="ensemble"))
    assert found["distillation"].item() == pytest.approx(divergence((SAID[0] + SAID[2]) / 2, SAID[1]).item())


@pytest.mark.recomputed("dml", by="formula")
@pytest.mark.parametrize("target", ["pairwise", "ensemble"])
def test_temperature_softens_both_sides_and_keeps_the_gradients_size(target: Any) -> None:
    found, _, _ = parts(DML(target=target, temperature=2.0))
    soft = (logits_of(SAID) / 2).softmax(-1)[..., 0]  # (3, 2)
    teachers = [soft[0], soft[2]] if target == "pairwise" else [(soft[0] + soft[2]) / 2]
    expected = 4 * sum(divergence(teacher, soft[1]) for teacher in teachers) / len(teachers)
    assert found["distillation"].item() == pytest.approx(float(expected))


def test_another_loss_takes_the_place_of_the_divergence() -> None:
    found, _, _ = parts(DML(loss="logit_mse"))
    z = logits_of(SAID)
    expected = (((z[0] - z[1]) ** 2).mean() + ((z[2] - z[1]) ** 2).mean()) / 2
    assert found["distillation"].item() == pytest.approx(expected.item())
    with pytest.raises(InputError, match="only logits are exchanged"):
        Experiment(strategy={"name": "dml", "loss": "crd"}, data={"partition": "shared"})


@pytest.mark.parametrize("target", ["pairwise", "ensemble"])
def test_what_is_heard_is_a_constant(target: Any) -> None:
    """The gradient of the mean of two divergences is that of the divergence from the mean: p - q."""
    found, mine, said = parts(DML(target=target))
    sum(found.values(), start=torch.zeros(())).backward()
    assert said.grad is None
    p, q, labels = SAID[1], (SAID[0] + SAID[2]) / 2, torch.tensor([1.0, 0.0])
    assert mine.grad is not None
    assert torch.allclose(mine.grad[:, 0], ((p - q) + (p - labels)) / 2)  # over two samples


@pytest.mark.slow
def test_the_weight_grows_over_its_share_of_the_rounds() -> None:
    """A ramp over half of four rounds: exp(-5) in the first, exp(-5 / 4) in the second, 1 in the third."""
    for round, expected in ((1, 0.0067379), (2, 0.2865048), (3, 1.0), (4, 1.0)):
        peer = peer_of(DML(ramp=0.5), round=round, rounds=4)
        assert peer.weight == pytest.approx(expected, rel=1e-4)
        found, _, _ = parts(DML(ramp=0.5), round=round, rounds=4)
        full, _, _ = parts(DML())
        assert found["distillation"].item() == pytest.approx(expected * full["distillation"].item(), rel=1e-4)


@pytest.mark.slow
def test_peers_of_weight_0_are_strangers() -> None:
    """Each learns as if it were alone: three of them, what they report is the mean."""
    together = simulate(peers(DML(weight=0.0), nets="mlp"))
    assert together.metrics[1]["distillation"] == 0
    alone = simulate(peers("dml", clients=1, nets="mlp")).clients
    mine = [next(row for row in rows if (row["round"], row["client"]) == (1, 0)) for rows in (together.clients, alone)]
    assert mine[0]["cross_entropy"] == mine[1]["cross_entropy"]


@pytest.mark.slow
def test_peers_come_to_agree() -> None:
    """By hand: of the same batch, what is said before and after a step of distillation alone is nearer."""
    experiment = peers(DML(weight=5.0), clients=2, samples=16, nets="mlp", train={"epochs": 8, "momentum": 0.0})
    losses = [simulate(experiment.replace(strategy=DML(weight=weight))).metrics[1]["peer_divergence"] for weight in (0.0, 5.0)]
    assert losses[1] < losses[0] / 2
    assert len(plan(node_of(experiment, 0)).draws) == 8


@pytest.mark.slow
@pytest.mark.parametrize(("update", "rounds"), [("simultaneous", 5), ("sequential", 5), ("alternating", 15)])
def test_learns_digits(update: Any, rounds: int) -> None:
    """Two cnn and an mlp on all digits, 36 batches a round, of which an alternating peer learns from 12."""
    data = {"clients": 3, "partition": "shared"}
    settings = {"rounds": rounds, "nets": {"cnn": 2 / 3, "mlp": 1 / 3}, "train": {"batch_size": 32, "lr": 0.05}}
    last = simulate(Experiment(strategy=DML(update=update), data=data, evaluate_every=rounds, **settings)).metrics[-1]
    assert last["clients_ok"] == 3
    assert min(last["peer_accuracies"]) > 0.9
