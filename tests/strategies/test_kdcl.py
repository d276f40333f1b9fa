"""KDCL: every target by hand through the strategy's own loss, views, the shares of "general", and that peers learn digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.kdcl import KDCL, VALIDATION, peer_shares, validation_logits
from test_lockstep import node_of, peers
from torch import Tensor, nn

from fedkd import Batch, Client, Experiment, InputError, Knowledge, predict, simulate
from fedkd.methods.peers.all_outputs import AllOutputs
from fedkd.methods.peers.turns import plan

T = 2.0
#: What two peers say of two samples of three classes; labels 0 and 1.
SAID = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0], [1.0, 3.0, 1.0]]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])


def distillation(strategy: KDCL, said: Tensor, beside: dict[str, Tensor] | None = None) -> Tensor:
    """The strategy's own: peer 0 of those who said these logits (K, B, C)."""
    client = node_of(peers(strategy, nets="mlp"), 0)
    client.exchange = 1  # after the first, in which logits of the validation set travel too
    peer = strategy.peer(client)
    batch = object.__new__(Batch)
    batch.__dict__.update(labels=LABELS, _work=client.work(), _class_weights=None)
    everybodys = AllOutputs(tuple(range(len(said))), 0, {"logits": said}, beside or {})
    parts = peer.loss({"logits": said[0]}, everybodys, batch)
    assert parts.keys() == {"cross_entropy", "distillation"}
    expected = -said[0].log_softmax(-1)[torch.arange(2), LABELS].mean()
    assert parts["cross_entropy"].item() == pytest.approx(expected.item())
    return parts["distillation"]


def to_target(mine: Tensor, target: Tensor) -> float:
    """T^2 KL(target || softmax(mine / T)), of probabilities (B, C), averaged over samples."""
    q = (mine / T).softmax(-1)
    return float(T**2 * (target * (target / q).log()).sum(-1).mean())


#: The first peer knows the first sample best, the second one the second. MinLogit: relative to the label's, class by class,
#: min((0, -2, -1), (0, 0, 1)) and min((-1, 0, -1), (-2, 0, -2)). Linear: both samples are best served by one peer alone.
TARGETS = {
    "naive": torch.stack([SAID[0, 0], SAID[1, 1]]),
    "linear": torch.stack([SAID[0, 0], SAID[1, 1]]),
    "min_logit": torch.tensor([[0.0, -2.0, -1.0], [-2.0, 0.0, -2.0]], dtype=torch.float64),
    "mean": torch.tensor([[1.0, 0.0, 1.0], [0.5, 2.0, 0.5]], dtype=torch.float64),
}


@pytest.mark.recomputed("kdcl", by="formula")
@pytest.mark.parametrize("target", TARGETS)
def test_one_target_of_all_logits_draws_a_peer(target: Any) -> None:
    found = distillation(KDCL(target=target), SAID)
    assert found.item() == pytest.approx(to_target(SAID[0], (TARGETS[target] / T).softmax(-1)), rel=1e-4)
    half = distillation(KDCL(target=target, weight=0.5), SAID)
    assert half.item() == pytest.approx(found.item() / 2)


@pytest.mark.recomputed("kdcl", by="hand")
def test_a_linear_target_lies_between_peers_that_err_differently() -> None:
    """One gives class 2 too much, the other class 1, equally: half of each is best."""
    said = torch.tensor([[[2.0, 0.0, 2.0]] * 2, [[2.0, 2.0, 0.0]] * 2], dtype=torch.float64)
    said[:, 1] = said[:, 1][:, [1, 0, 2]]  # for the label 1: classes 0 and 1 change places
    between = torch.tensor([[2.0, 1.0, 1.0], [1.0, 2.0, 1.0]], dtype=torch.float64)
    found = distillation(KDCL(target="linear"), said)
    assert found.item() == pytest.approx(to_target(said[0], (between / T).softmax(-1)), rel=1e-4)


@pytest.mark.recomputed("kdcl", by="formula")
@pytest.mark.slow
def test_the_general_target_is_a_mixture_of_probabilities_in_the_servers_shares() -> None:
    soft = (SAID / T).softmax(-1)  # (K, B, C)
    found = distillation(KDCL(target="general"), SAID, {"shares": torch.tensor([0.25, 0.75])})
    assert found.item() == pytest.approx(to_target(SAID[0], 0.25 * soft[0] + 0.75 * soft[1]), rel=1e-4)
    left = distillation(KDCL(target="general"), SAID, {"shares": torch.tensor([0.1, 0.1])})  # who left had 0.8
    assert left.item() == pytest.approx(to_target(SAID[0], soft.mean(0)), rel=1e-4)
    nothing = distillation(KDCL(target="general"), SAID, {"shares": torch.tensor([0.0, 0.0])})
    assert nothing.item() == pytest.approx(left.item())


@pytest.mark.recomputed("kdcl", by="formula")
@pytest.mark.parametrize("target", [*TARGETS, "general"])
def test_a_target_is_a_constant(target: Any) -> None:
    """The gradient is T (q - p) / B, and none of it comes from the target, which the peer's own logits are part of."""
    said = SAID.clone().requires_grad_()
    beside = {"shares": torch.tensor([0.5, 0.5])}
    distillation(KDCL(target=target), said, beside).backward()
    soft = (SAID / T).softmax(-1)
    p = soft.mean(0) if target == "general" else (TARGETS[target] / T).softmax(-1)
    assert said.grad is not None
    assert not said.grad[1].any()
    assert torch.allclose(said.grad[0], T * (soft[0] - p) / 2, atol=1e-5)


class Watched(nn.Module):
    """Keeps what it is given."""

    seen: list[Tensor] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        logits: Tensor = self.linear(images.flatten(1))
        return logits


def watched(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Watched()


@pytest.mark.parametrize("own_views", [True, False])
def test_peers_see_the_same_images_each_in_a_view_of_its_own(own_views: bool) -> None:
    experiment = peers(KDCL(own_views=own_views), nets="test_kdcl:watched")
    images = []
    for id in range(3):
        client = node_of(experiment, id)
        Watched.seen.clear()
        experiment.strategy.client_update(client, Knowledge())
        images.append(Watched.seen[0])
        batch = plan(client).batch(0)
        assert torch.equal(images[id], batch.view(id) if own_views else batch.inputs)
    assert torch.equal(images[0], images[1]) is not own_views
    assert torch.equal(images[1], images[2]) is not own_views


def say_of_validation(server: Any, probabilities: list[float]) -> dict[int, Knowledge]:
    """Peers that give every label this probability, and the next class the rest."""
    samples = server.validation.samples
    labels = samples.labels[samples.indices]
    rows = torch.arange(len(labels))
    uploads = {}
    for peer, p in enumerate(probabilities):
        logits = torch.full((len(labels), 10), -99.0)
        logits[rows, labels], logits[rows, (labels + 1 + peer) % 10] = torch.log(torch.tensor([p, 1 - p]))
        uploads[peer] = Knowledge.of("logits", {VALIDATION: logits})
    return uploads


@pytest.mark.recomputed("kdcl", by="hand")
def test_shares_are_those_of_least_expected_error_by_hand() -> None:
    """Errors 1 - p at the label, and as much at a class that no other peer takes for it: E_ij = e_i e_j, and twice on the
    diagonal. Of e = (0.5, 0.25): E = (1/2, 1/8; 1/8, 1/8), E^-1 1 ~ (1/8 - 1/8, 1/2 - 1/8): the second peer's alone. Of
    (0.4, 0.3): E = (0.32, 0.12; 0.12, 0.18), shares (0.18 - 0.12, 0.32 - 0.12) / 0.26.
    """
    for errors, expected in (((0.5, 0.25), (0.0, 1.0)), ((0.4, 0.3), (3 / 13, 10 / 13))):
        server = node_of(peers(KDCL(target="general"), clients=2), None)
        found = peer_shares(server, say_of_validation(server, [1 - e for e in errors]))
        assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_shares_stay_for_the_round_and_leave_with_their_peer() -> None:
    server = node_of(peers(KDCL(target="general")), None)
    uploads = say_of_validation(server, [0.6, 0.7, 0.8])
    first = peer_shares(server, dict(reversed(uploads.items())))
    assert first.sum().item() == pytest.approx(1) and first.argmax() == 2
    server.exchange = 1
    left = peer_shares(server, {0: Knowledge(), 2: Knowledge()})
    assert left.tolist() == [first[0].item(), first[2].item()]


def test_logits_of_the_validation_set_travel_once_a_round_and_are_of_eval_mode() -> None:
    experiment = peers(KDCL(target="general"), nets="test_lockstep:Tiny")
    client: Client = node_of(experiment, 0)
    net = client.net(init="own", keep=True)
    logits = validation_logits(client, net)
    assert logits.shape == (20, 10)
    images = client.validation.batch(next(iter(client.validation.draws(epochs=1, batch_size=20, rng=torch.Generator()))))
    order = images.ids.argsort()
    samples = client.validation.samples.indices.argsort()
    assert torch.allclose(logits[samples], net.eval()(images.inputs)[order], atol=1e-5)
    strategy = KDCL(target="general")
    assert strategy.peer(client).beside.keys() == {VALIDATION}
    client.exchange = 1
    assert not strategy.peer(client).beside


class Normed(nn.Module):
    """Its statistics tell whether it has seen a batch: until then they are 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(64, momentum=1.0), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.norm(images.flatten(1)))
        return logits


def normed(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Normed()


@pytest.mark.parametrize("left", [False, True])
def test_peers_are_weighed_before_the_rounds_first_pass(left: bool) -> None:
    """Also after a round that a peer left between a pass and its step: no trace of that pass."""
    experiment = peers(KDCL(target="general"), nets="test_kdcl:normed")
    client: Client = node_of(experiment, 0)
    net = client.net(init="own", keep=True)
    expected = predict(net.eval(), client.validation.samples, client.work())
    if left:
        experiment.strategy.client_update(client, Knowledge())
        client.flush()
        client.round = 2
    upload = experiment.strategy.client_update(client, Knowledge())
    assert torch.equal(upload.tensors[VALIDATION], expected)
    assert not torch.allclose(predict(net.eval(), client.validation.samples, client.work()), expected, atol=0.01)


@pytest.mark.slow
def test_bytes_of_the_general_target() -> None:
    """Up 4 * 10 bytes a sample, 40 in batches and 20 held out; down three times the batches, and three shares an exchange, but
    in the round's last.
    """
    row = simulate(peers(KDCL(target="general"), nets="mlp")).metrics[1]
    assert row["bytes_up"] == 3 * 40 * (40 + 20)
    assert row["bytes_down"] == 3 * (3 * 40 * 40 + 3 * (3 * 4))


def test_the_general_target_needs_a_validation_set_and_the_others_none() -> None:
    data = {"partition": "shared", "clients": 2}
    with pytest.raises(InputError, match="a labelled validation set"):
        Experiment(strategy={"name": "kdcl", "target": "general"}, data=data)
    assert Experiment(strategy="kdcl", data=data).data.validation == 0


@pytest.mark.slow
@pytest.mark.parametrize("target", ["naive", "linear", "min_logit", "general", "mean"])
def test_learns_digits(target: Any) -> None:
    """A cnn and an mlp on all digits, eight rounds of 34 batches. Without views: FedX's mirror half of them."""
    data = {"clients": 2, "partition": "shared", "validation": 100}
    settings = {"rounds": 8, "nets": {"cnn": 0.5, "mlp": 0.5}, "train": {"batch_size": 32, "lr": 0.02}, "evaluate_every": 8}
    last = simulate(Experiment(strategy=KDCL(target=target, own_views=False), data=data, **settings)).metrics[-1]
    assert last["clients_ok"] == 2
    assert min(last["peer_accuracies"]) > 0.9
