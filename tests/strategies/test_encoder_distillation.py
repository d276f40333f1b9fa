"""Encoder distillation: a teacher at the server, its relations between public images, small students at the clients."""

from __future__ import annotations

import math

import pytest
import torch
from anchor_runs import D, anchors, first_step, kl, relations, unit
from fedkd.strategies.encoder_distillation import RELATIONS, EncoderDistillation, RelationTerm
from public_runs import client_of, server_of, tiny
from torch import Tensor, nn

from fedkd import InputError, Knowledge, predict, simulate
from fedkd.methods.encoders.anchors import Anchors
from fedkd.methods.encoders.own_encoders import own_net
from fedkd.nets import HEADS

SMALL = {"train": {"batch_size": 8}}
NETS = {"nets": {"cnn": 0.5, "mlp": 0.5}, "server_net": "cnn"}


def seed(student: Tensor, teacher: Tensor, others: Tensor, own: Tensor) -> float:
    """SEED's cross-entropy at temperatures 0.2 and 1e-4, one sample after the other."""
    total = 0.0
    for s, t in zip(student.double(), teacher.double(), strict=True):
        candidates = torch.stack([t, *others.double()])
        target, predicted = (relations(x[None], candidates, T)[0] for x, T in ((t, 0.1), (s, 0.2)))
        cosines = torch.nn.functional.cosine_similarity(candidates, t[None]) / 1e-4
        target = cosines.softmax(0).tolist()
        total -= sum(p * math.log(q) for p, q in zip(target, predicted, strict=True))
    return total / len(student)


def compress(student: Tensor, teacher: Tensor, others: Tensor, own: Tensor, temperature: float = 0.04) -> float:
    pairs = zip(relations(teacher, others, temperature), relations(student, own, temperature), strict=True)
    return sum(kl(p, q) for p, q in pairs) / len(student)


@pytest.mark.recomputed("encoder_distillation", by="formula")
@pytest.mark.parametrize("relation", ["seed", "compress_2q", "compress_1q", "isd"])
def test_the_relation_is_that_of_its_paper(relation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over what the teacher says of all public samples outside the batch, found by id."""
    strategy = EncoderDistillation(relation=relation, relation_weight=2.0)  # type: ignore[arg-type]
    client, heard = client_of(tiny(strategy, **SMALL)), unit(1, 30)
    parts, _ = first_step(client, anchors(heard), strategy, monkeypatch)
    subset, heads = client.public_subset(round=0), RELATIONS[relation].heads
    net = own_net(client, strategy.build_base(), *heads).eval()

    def says(images: Tensor) -> Tensor:
        rows = net.head("projection", net.features(images))
        return net.head("prediction", rows) if relation == "isd" else rows

    batch, order = next(subset.stream("public")), subset.samples.indices.tolist()
    with torch.no_grad():
        student, held = says(batch.view(1)), predict(says, subset.samples, client.work())
    teacher = torch.stack([heard[order.index(id)] for id in batch.ids.tolist()])
    outside = [position for position, id in enumerate(order) if id not in batch.ids.tolist()]
    own = held[outside] if relation == "compress_2q" else heard[outside]
    loss = {"seed": seed, "isd": lambda *rows: compress(*rows, temperature=0.02)}.get(relation, compress)
    assert len(outside) == 22
    assert parts["relation"] == pytest.approx(2 * loss(student, teacher, heard[outside], own), rel=1e-3, abs=1e-6)
    assert parts["local_contrastive"] > 0


def test_the_students_own_anchors_are_those_that_it_said_last() -> None:
    """With two queues: after a batch the loss sees the student's new rows of it, and the old ones of the rest."""
    strategy = EncoderDistillation(relation="compress_2q")
    client = client_of(tiny(strategy, **SMALL))
    net, subset = own_net(client, strategy.build_base()), client.public_subset(round=0)
    ids = subset.samples.indices
    term = RelationTerm(RELATIONS["compress_2q"], net, subset, Anchors(ids, unit(0, 30)))
    fresh = unit(5, 10).requires_grad_()
    term.loss(net, fresh, ids[:10])
    expected = torch.cat([fresh.detach(), predict_rows(net, subset)[10:]])
    found = term.loss(net, unit(6, 5), ids[25:]).item()
    assert found == pytest.approx(compress(unit(6, 5), unit(0, 30)[25:], unit(0, 30)[:25], expected[:25]), rel=1e-3)


def predict_rows(net: nn.Module, subset: object) -> Tensor:
    rows = predict(lambda images: net.eval().head("projection", net.features(images)), subset.samples, subset.work)  # type: ignore
    return rows / rows.norm(dim=1, keepdim=True)


def test_the_gradient_reaches_the_student_alone() -> None:
    strategy = EncoderDistillation(relation="isd")
    client = client_of(tiny(strategy, **SMALL))
    net, subset, taught = own_net(client, strategy.build_base(), "prediction"), client.public_subset(round=0), unit(0, 30)
    term = RelationTerm(RELATIONS["isd"], net, subset, Anchors(subset.samples.indices, taught.requires_grad_()))
    batch = term.next()
    term.loss(net, net.head("projection", net.features(batch.inputs)), batch.ids).backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in net.heads["prediction"].parameters())
    assert taught.grad is None


def test_a_batch_is_at_most_half_of_the_public_samples() -> None:
    strategy = EncoderDistillation()
    client = client_of(tiny(strategy, train={"batch_size": 64}))
    net, subset = own_net(client, strategy.build_base()), client.public_subset(round=0)
    assert len(RelationTerm(RELATIONS["seed"], net, subset, Anchors(subset.samples.indices, unit(0, 30))).next()) == 15


def test_the_teacher_speaks_in_unit_rows_and_goes_on_learning() -> None:
    strategy = EncoderDistillation(public_samples=20)
    server = server_of(tiny(strategy, **SMALL))
    first, second = (strategy.server_update(server, {0: Knowledge(), 1: Knowledge()}).tensors["anchors"] for _ in range(2))
    assert first.shape == (20, D)
    torch.testing.assert_close(second.norm(dim=1), torch.ones(20))
    assert not torch.equal(first, second)
    assert server.reported["server_local_contrastive"] > 0


@pytest.mark.slow
def test_the_table_goes_down_and_nothing_up() -> None:
    """4 * 256 P bytes for each client and round, once there is a teacher; 2 clients, 20 samples."""
    rows = simulate(tiny({"name": "encoder_distillation", "public_samples": 20}, rounds=3, evaluate_every=3, **NETS)).metrics
    assert [row["bytes_up"] for row in rows] == [0, 0, 0, 0]
    assert [row["bytes_down"] for row in rows] == [0, 0, 2 * 4 * D * 20, 2 * 4 * D * 20]
    assert "relation" not in rows[1]
    assert rows[2]["relation"] > 0
    assert 0 < rows[3]["accuracy"] <= 1
    assert "encoder_accuracy" not in rows[3]  # none of the server's


def test_epochs_of_the_teacher_are_an_option_that_does_something() -> None:
    losses = []
    for epochs in (0, 4):
        server = server_of(tiny(EncoderDistillation(teacher_epochs=epochs), **SMALL))
        EncoderDistillation(teacher_epochs=epochs).server_update(server, {})
        losses.append(server.reported["server_loss"])
    assert losses[0] > losses[1]


def test_a_student_of_another_width_is_refused_before_round_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "projection", lambda in_features, classes: nn.Linear(in_features, in_features))
    options = {"mlp": {"hidden": [9, 7]}, "cnn": {"channels": [3], "hidden": 13}}  # of no other test: nets are used again
    with pytest.raises(InputError, match="projections of one width, these have mlp 7, cnn 13"):
        simulate(tiny("encoder_distillation", nets="mlp", server_net="cnn", net_options=options))


def test_the_teacher_of_another_set_is_refused() -> None:
    with pytest.raises(InputError, match=r"anchors of shape \(29, 256\) came"):
        EncoderDistillation().client_update(client_of(tiny(EncoderDistillation())), anchors(unit(0, 29)))
