"""MCL: its losses by hand, exchanged and joint training side by side, what travels, and who hears logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fedkd.strategies.mcl import MCL, EmbeddingHead, pair_losses
from public_runs import client_of
from test_okddip import after_a_round, assert_equal_weights, batch_of, jointly, peer_of, peers
from torch import Tensor, nn

from fedkd import Batch, Experiment, simulate
from fedkd.losses import cross_entropy_loss, icl_loss, kd_loss, soft_icl_loss, soft_similarity_loss, supcon_loss
from fedkd.methods.peers.all_outputs import AllOutputs
from fedkd.methods.peers.turns import plan
from fedkd.targets import mean_logits

WIDTHS = {"mlp": 16, "cnn": 24}


def joint_losses(net: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
    """MCL of all peers in one process, as the paper sums it: over pairs of nets for ICL, over ordered pairs for Soft-VCL."""
    K, labels = len(net), batch.labels
    features = [net[str(k)]["net"].features(batch.inputs) for k in range(K)]
    logits = [net[str(k)]["net"].head("classifier", features[k]) for k in range(K)]
    v = [net[str(k)]["head"](features[k]) for k in range(K)]
    soft = [soft_icl_loss(v[i], v[j]) for i, j in combinations(range(K), 2)]
    parts: dict[str, Sequence[Tensor]] = {
        "cross_entropy": [cross_entropy_loss(z, labels) for z in logits],
        "vcl": [0.1 * supcon_loss(each, labels, temperature=0.1) for each in v],
        "icl": [0.1 * icl_loss(v[i], v[j], labels) for i, j in combinations(range(K), 2)],
        "soft_vcl": [soft_similarity_loss(v[i], v[j]) for i, j in permutations(range(K), 2)],
        "soft_icl": soft,
        "logit": [0.5 * kd_loss(logits[-1], mean_logits(torch.stack(logits)).logits(), temperature=3.0)],
    }
    return {name: torch.stack(list(each)).sum() for name, each in parts.items()}


def joint_nets(experiment: Experiment) -> nn.ModuleDict:
    """All peers' nets and heads with the weights that they start from."""
    nets = nn.ModuleDict()
    for id in range(experiment.data.clients):
        client = client_of(experiment, id)
        width = WIDTHS[client.architecture]
        head = client.module("head", lambda width=width: EmbeddingHead(width, 128), init="own")  # type: ignore[misc]
        nets[str(id)] = nn.ModuleDict({"net": client.net(init="own"), "head": head})
    return nets


@pytest.mark.recomputed("mcl", by="formula")
@pytest.mark.slow
@pytest.mark.parametrize("nets", ["mlp", {"mlp": 0.5, "cnn": 0.5}])
def test_exchanged_is_joint_training_though_what_is_heard_is_constant(nets: Any) -> None:
    train = {"lr": 0.01, "batch_size": 24, "epochs": 2, "optimizer": "sgd", "momentum": 0.9}
    experiment = peers(MCL(logit_weight=0.5), nets=nets, train=train)
    jointly(experiment, joint := joint_nets(experiment), joint_losses)
    for client in after_a_round(experiment):
        assert_equal_weights(client.net(init="own", keep=True), joint[str(client.id)]["net"])
        assert_equal_weights(client.module("head", nn.Identity, keep=True), joint[str(client.id)]["head"])


def test_one_direction_of_icl_would_be_half_of_the_gradient() -> None:
    """Anchors of mine against candidates of the other's: what a peer would miss that computed only this."""
    rng = torch.Generator().manual_seed(0)
    a, b = (F.normalize(torch.randn(6, 4, generator=rng), dim=1).requires_grad_() for _ in range(2))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    (whole,) = torch.autograd.grad(icl_loss(a, b, labels), a)
    (exchanged,) = torch.autograd.grad(icl_loss(a, b.detach(), labels), a)
    similarity = (a @ b.detach().T / 0.1).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    anchors = -similarity.log_softmax(1)[torch.arange(6), torch.tensor([1, 0, 3, 2, 5, 4])].mean()
    (half,) = torch.autograd.grad(anchors, a)
    torch.testing.assert_close(exchanged, whole)
    assert not torch.allclose(half, whole, atol=1e-2)


@pytest.mark.recomputed("mcl", by="hand")
def test_the_losses_of_three_samples_by_hand() -> None:
    """Rows e1, e1, e2 of labels 0, 0, 1 at mine; e1, e2, e2 at the other; both temperatures 1."""
    mine, other = torch.eye(2)[[0, 0, 1]], torch.eye(2)[[0, 1, 1]]
    found = pair_losses(mine, other[None], torch.tensor([0, 0, 1]), 1.0, 1.0)
    # Cosines of mine (rows) with the other's: (1, 0, 0), (1, 0, 0), (0, 1, 1). Anchors 0 and 1 have one positive, each other.
    forth = (math.log(2) + math.log(math.e + 1) - 1) / 2  # of (0, 0) the first; of (1, 0) the first
    back = (math.log(math.e + 1) - 1 + math.log(math.e + 1)) / 2  # transposed: of (1, 0) the first; of (0, 1) the first
    assert found["icl"].item() == pytest.approx(forth + back, rel=1e-4)
    own, theirs = (F.softmax(each @ each.T, 1) for each in (mine, other))  # similarities within a batch
    assert found["soft_vcl"].item() == pytest.approx((theirs * (theirs / own).log()).sum(1).mean().item(), rel=1e-4)
    there, back_again = F.softmax(mine @ other.T, 1), F.softmax(other @ mine.T, 1)
    expected = sum((q * (q / p).log()).sum(1).mean() for p, q in ((there, back_again), (back_again, there)))
    assert found["soft_icl"].item() == pytest.approx(expected.item(), rel=1e-4)  # type: ignore[union-attr]


def test_twice_as_many_peers_pull_twice_and_the_mean_of_logits_is_a_constant() -> None:
    experiment = peers(MCL(logit_weight=1.0))
    peer, batch = peer_of(experiment, 2), batch_of(experiment)
    rng = torch.Generator().manual_seed(0)
    own = {
        "embedding": torch.randn(24, 128, generator=rng).requires_grad_(),
        "logits": torch.zeros(24, 10, requires_grad=True),
    }
    other, logits = torch.randn(1, 24, 128, generator=rng), torch.randn(1, 24, 10, generator=rng)
    mine = {"embedding": own["embedding"].detach()[None], "logits": own["logits"].detach()[None]}
    parts = {}
    for others in (1, 2):
        tensors = {"embedding": other.repeat(others, 1, 1), "logits": logits.repeat(others, 1, 1)}
        everything = {name: torch.cat([tensors[name], mine[name]]).requires_grad_() for name in tensors}
        parts[others] = peer.loss(own, AllOutputs((*range(others), 2), 2, everything, {}), batch)
        sum(parts[others].values()).backward()  # type: ignore[union-attr]
        assert everything["logits"].grad is None
    assert set(parts[1]) == {"cross_entropy", "vcl", "icl", "soft_vcl", "soft_icl", "logit"}
    for name in ("icl", "soft_vcl", "soft_icl"):
        assert parts[2][name].item() == pytest.approx(2 * parts[1][name].item(), rel=1e-5)
    assert all(bool(tensor.grad.any()) for tensor in own.values())  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize(("logit_weight", "numbers"), [(0.0, 128), (1.0, 128 + 10)])
def test_what_travels_is_an_embedding_a_sample_and_logits_if_asked_for(logit_weight: float, numbers: int) -> None:
    experiment = peers(MCL(logit_weight=logit_weight))
    row, samples = simulate(experiment).metrics[1], len(plan(client_of(experiment)).data)
    assert row["bytes_up"] == 3 * 4 * samples * numbers
    assert row["bytes_down"] == 3 * row["bytes_up"]


@pytest.mark.slow
@pytest.mark.parametrize(("clients", "hearing"), [(2, [True, True]), (3, [False, False, True])])
def test_logits_are_for_both_of_two_peers_and_for_the_last_of_more(clients: int, hearing: list[bool]) -> None:
    lines = simulate(peers(MCL(logit_weight=1.0), clients)).clients
    assert ["logit" in line for line in lines if line["round"] == 1] == hearing


@pytest.mark.slow
def test_alone_or_without_weights_it_is_training_on_labels() -> None:
    without = MCL(weight=0, vcl_weight=0)
    settings = {"data": {"client_test": 0.2}, "rounds": 2}
    alone = simulate(peers(without, 1, **settings)).clients[-1]
    among = simulate(peers(without, 3, **settings)).clients[-3]
    assert alone["cross_entropy"] == among["cross_entropy"] == among["loss"]


@pytest.mark.slow
def test_batches_without_two_of_a_label_still_train() -> None:
    """Batches of two digits: hardly a positive in them, and nothing to imitate but the rows themselves."""
    row = simulate(peers(MCL(), train={"lr": 0.01, "batch_size": 2})).metrics[1]
    assert math.isfinite(row["loss"]) and row["clients_ok"] == 3


@pytest.mark.slow
def test_all_learn_digits() -> None:
    """Seen, 8 rounds of 1150 digits, 3 peers: 95.0 to 97.8 % on the global test set."""
    settings = {"rounds": 8, "evaluate_every": 8, "data": {"clients": 3, "partition": "shared"}}
    row = simulate(Experiment(strategy="mcl", train={"lr": 0.05, "batch_size": 64}, **settings)).metrics[-1]
    assert all(accuracy > 0.9 for accuracy in row["peer_accuracies"])
