"""AMTML-KD: mixtures of teachers that an adapter learns, hints dealt out to them, and when both are fixed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fedkd.strategies.amtml import AMTML, Factor, mix, teacher_shares
from public_runs import few_samples, server_of, tiny

from fedkd import Knowledge, Server, simulate
from fedkd.losses import rkd_angle_loss, rkd_distance_loss

OPTIONS = {"cnn": {"channels": [2, 4], "hidden": 8}, "mlp": {"hidden": [8]}}


def server_with(strategy: AMTML, lr: float = 1e-9, **changes: Any) -> Server:
    settings = {"nets": "cnn", "net_options": OPTIONS, "train": {"batch_size": 64, "lr": lr, "weight_decay": 0.0}}
    return server_of(tiny(strategy, **{**settings, **changes}))


def uploads_of(server: Server, *clients: int) -> dict[int, Knowledge]:
    uploads = {}
    for client in clients:
        net = server.net(f"drawn {client}", architecture=server.architecture_of(client), init="own")
        uploads[client] = Knowledge.of("weights", {name: tensor.clone() for name, tensor in net.state_dict().items()})
    return uploads


def kept(server: Server, kind: str) -> dict[str, torch.Tensor]:
    server.flush()
    return {name: tensor.clone() for name, tensor in server.memory.under(f"module/{kind}/").items()}


@pytest.mark.recomputed("amtml", by="formula")
def test_a_step_descends_the_definition() -> None:
    """One batch of all public samples; all nets, vectors and convolutions as they were before the step."""
    server = server_with(AMTML(temperature=2.0, balance=0.75, hint_weight=3.0), data={"public_labels": True})
    uploads = uploads_of(server, 0, 1)
    batch = next(server.public.batches(epochs=1, batch_size=64, rng=server.rng("batches")))
    own = server.net("student", architecture="cnn", keep=True).outputs(batch.inputs)
    theirs = []
    for upload in uploads.values():
        teacher = server.net("copy", architecture="cnn")
        teacher.load_state_dict(dict(upload.tensors))
        theirs.append(teacher.eval().outputs(batch.inputs))
    server.experiment.strategy.server_update(server, uploads)
    vectors = kept(server, "factor/cnn")
    scores = torch.stack([(own.features * vectors[f"{k}/values"]) @ vectors["all/values"] for k in (0, 1)])  # (K, B)
    said = torch.stack([(one.logits / 2).softmax(1) for one in theirs])
    target = (scores.softmax(0)[:, :, None] * said).sum(0)
    log_s = (own.logits / 2).log_softmax(1)
    divergence = 4 * F.kl_div(log_s, target, reduction="batchmean").item()
    assert server.reported["server_distillation"] == pytest.approx(0.75 * divergence, rel=1e-4)
    relations = rkd_distance_loss(log_s.exp(), target) + rkd_angle_loss(log_s.exp(), target)
    assert server.reported["server_relations"] == pytest.approx(relations.item(), rel=1e-3)
    hints = torch.zeros(())
    for name, weight in kept(server, "hint/cnn").items():
        level, teacher, _ = name.split("/", 2)
        mine, taught = (F.normalize(outputs.maps[int(level)].relu()) for outputs in (own, theirs[int(teacher.split("/")[0])]))
        hints = hints + (F.conv2d(mine, weight) - taught).square().mean()
    assert server.reported["server_hints"] == pytest.approx(3 * hints.item(), rel=1e-3)
    squares = sum(vector.square().sum().item() for vector in vectors.values())
    assert server.reported["server_penalty"] == pytest.approx(0.1 * squares, rel=1e-4)
    labels = F.cross_entropy(own.logits, batch.labels).item()
    assert server.reported["server_cross_entropy"] == pytest.approx(0.25 * labels, rel=1e-4)


def test_maps_are_dealt_out_to_the_teachers_in_turn() -> None:
    server = server_with(AMTML(), lr=0.1)
    server.experiment.strategy.server_update(server, uploads_of(server, 0, 1))
    assert {name.rpartition("/")[0] for name in kept(server, "hint/cnn")} == {"0/0", "1/1"}


def test_equal_teachers_are_one_teacher_whatever_the_adapter_says() -> None:
    logits, features = torch.randn(6, 10), torch.randn(6, 5)
    shares = teacher_shares(features, torch.randn(3, 5), torch.randn(5))
    torch.testing.assert_close(mix(logits.expand(3, 6, 10), shares, 2.0), (logits / 2).softmax(1))
    torch.testing.assert_close(shares.sum(0), torch.ones(6))


def test_vectors_of_zeros_are_the_mean_of_probabilities() -> None:
    logits = torch.randn(3, 6, 10)
    shares = teacher_shares(torch.randn(6, 5), torch.zeros(3, 5), torch.ones(5))
    torch.testing.assert_close(mix(logits, shares, 1.0), logits.softmax(2).mean(0))


def test_the_adapter_learns_to_prefer_the_teacher_that_is_near_the_student() -> None:
    """By the divergence alone: one teacher says what the student says, the other something else."""
    torch.manual_seed(0)
    own, features = torch.randn(40, 4), torch.rand(40, 5)
    said = torch.stack([torch.randn(40, 4) * 3, own])
    factors, common = [Factor(5, 0.1) for _ in said], Factor(5, 1.0)
    optimizer = torch.optim.Adam([*(one.values for one in factors), common.values], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        shares = teacher_shares(features, torch.stack([one.values for one in factors]), common.values)
        F.kl_div(own.log_softmax(1), mix(said, shares, 1.0), reduction="batchmean").backward()
        optimizer.step()
    assert shares[1].min() > 0.9


def test_the_adapter_is_fixed_after_its_share_of_the_rounds() -> None:
    server = server_with(AMTML(adapter_share=0.5), lr=0.1, rounds=2)
    uploads = uploads_of(server, 0, 1)
    server.experiment.strategy.server_update(server, uploads)
    learned = kept(server, "factor") | kept(server, "hint")
    assert set(server.reported) == {f"server_{name}" for name in ("distillation", "relations", "hints", "penalty", "loss")}
    server.round, server.reported = 2, {}
    server.experiment.strategy.server_update(server, uploads)
    after = kept(server, "factor") | kept(server, "hint")
    assert all(torch.equal(after[name], tensor) for name, tensor in learned.items())
    assert set(server.reported) == {"server_distillation", "server_relations", "server_loss"}


@pytest.mark.parametrize("part", ["balance", "relation_weight", "hint_weight"])
def test_each_distillation_moves_the_student_by_itself(part: str) -> None:
    weights = {"balance": 0.0, "relation_weight": 0.0, "hint_weight": 0.0, "penalty": 0.0, part: 1.0}
    labelled = {} if part == "balance" else {"public_labels": True}
    server = server_with(AMTML(**weights), lr=0.5, data=labelled)
    before = {n: t.clone() for n, t in server.net("student", architecture="cnn", keep=True).state_dict().items()}
    after = server.experiment.strategy.server_update(server, uploads_of(server, 0, 1)).tensors
    assert any((after[name] - tensor).abs().max() > 1e-6 for name, tensor in before.items() if name.startswith("encoder."))


def test_nets_without_maps_get_no_hints() -> None:
    server = server_with(AMTML(), nets="mlp")
    server.experiment.strategy.server_update(server, uploads_of(server, 0, 1))
    assert "server_hints" not in server.reported


def test_weights_travel_as_the_formula_says() -> None:
    row = simulate(tiny(AMTML(), nets="cnn", net_options=OPTIONS)).metrics[1]
    net = sum(4 * tensor.numel() for tensor in server_with(AMTML()).net("any", architecture="cnn").state_dict().values())
    assert (row["bytes_up"], row["bytes_down"]) == (2 * net, 2 * net)


@pytest.mark.slow
def test_the_student_is_better_than_the_clients_that_teach_it() -> None:
    train = {"optimizer": "adam", "lr": 0.003}
    last = simulate(few_samples("amtml", server_net="cnn", train=train)).metrics[-1]
    alone = simulate(few_samples("local", train=train)).metrics[-1]
    assert last["accuracy"] > alone["accuracy"] + 0.1
