"""Hydra: one head learns the mean, then each teacher has its own, and how far they disagree is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.hydra import Hydra, mean_of_heads, student_of
from public_runs import few_samples, server_of, tiny

from fedkd import Experiment, InputError, Knowledge, Server, simulate
from fedkd.losses import kd_loss
from fedkd.nets import Branched
from fedkd.targets import mean_probs

OPTIONS = {"cnn": {"channels": [2, 4], "hidden": 8}, "mlp": {"hidden": [8, 8]}}


def server_with(strategy: Hydra, lr: float = 1e-9, round: int = 1, **changes: Any) -> Server:
    """With its student's three heads, in this round of four."""
    settings = {"nets": "cnn", "net_options": OPTIONS, "train": {"batch_size": 64, "lr": lr, "weight_decay": 0.0}}
    server = server_of(tiny(strategy, **{**settings, "data": {"clients": 3}, "rounds": 4, **changes}))
    server.experiment.strategy.first_broadcast(server)
    server.round = round
    return server


def uploads_of(server: Server, *clients: int) -> dict[int, Knowledge]:
    uploads = {}
    for client in clients:
        net = server.net(f"drawn {client}", architecture=server.architecture_of(client), init="own")
        uploads[client] = Knowledge.of("weights", {name: tensor.clone() for name, tensor in net.state_dict().items()})
    return uploads


def said_by(server: Server, uploads: dict[int, Knowledge], images: Any) -> list[torch.Tensor]:
    said = []
    for upload in uploads.values():
        teacher = server.net("copy", architecture="cnn")
        teacher.load_state_dict(dict(upload.tensors))
        said.append(teacher.eval()(images))
    return said


def heads_of(student: Branched) -> list[dict[str, torch.Tensor]]:
    parts = zip(student.tails, student.classifiers, strict=True)
    return [{n: t.clone() for part in pair for n, t in part.state_dict().items()} for pair in parts]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.recomputed("hydra", by="formula")
def test_steps_descend_the_definitions() -> None:
    """One batch of all public samples: first the mean to one head, then each teacher to its own."""
    for round in (1, 4):
        server = server_with(Hydra(temperature=2.0), round=round)
        uploads = uploads_of(server, 0, 2)
        batch = next(server.public.batches(epochs=1, batch_size=64, rng=server.rng("batches")))
        own, said = student_of(server)(batch.inputs), said_by(server, uploads, batch.inputs)
        mean = mean_probs(torch.stack(said), temperature=2.0).logits(2.0)
        apart = [kd_loss(own[k], one, temperature=2.0) for k, one in zip((0, 2), said, strict=True)]
        expected = kd_loss(own[0], mean, temperature=2.0) if round == 1 else torch.stack(apart).mean()
        server.experiment.strategy.server_update(server, uploads)
        assert server.reported["server_distillation"] == pytest.approx(expected.item(), rel=1e-4)


def test_all_heads_are_one_until_each_has_its_teacher() -> None:
    server = server_with(Hydra(), lr=0.1)
    uploads = uploads_of(server, 0, 1, 2)
    start = heads_of(student_of(server))
    assert equal(start[0], start[1])
    for round in (1, 2):
        server.round = round
        server.experiment.strategy.server_update(server, uploads)
    together = heads_of(student_of(server))
    assert not equal(start[0], together[0])
    assert equal(together[0], together[1]) and equal(together[0], together[2])
    server.round = 3
    server.experiment.strategy.server_update(server, {k: uploads[k] for k in (0, 2)})
    apart = heads_of(student_of(server))
    assert not equal(apart[0], apart[2])
    assert equal(apart[1], together[1])  # client 1 was not there


def test_equal_teachers_leave_equal_heads() -> None:
    server = server_with(Hydra(), lr=0.1, round=3)
    upload = uploads_of(server, 0)[0]
    server.experiment.strategy.server_update(server, dict.fromkeys(range(3), upload))
    heads = heads_of(student_of(server))
    for name, tensor in heads[0].items():
        torch.testing.assert_close(heads[1][name], tensor)


def test_its_prediction_is_the_mean_of_probabilities() -> None:
    logits = torch.randn(3, 5, 10)
    torch.testing.assert_close(mean_of_heads(logits).softmax(1), logits.softmax(2).mean(0))


def test_nets_go_up_and_a_body_with_heads_comes_down() -> None:
    experiment = tiny(Hydra(), nets="cnn", net_options=OPTIONS, data={"clients": 3})
    server = server_with(Hydra())
    net = server.net("any", architecture="cnn").state_dict()
    body = sum(4 * tensor.numel() for tensor in student_of(server).trunk.state_dict().values())
    whole = sum(4 * tensor.numel() for tensor in net.values())
    row = simulate(experiment).metrics[1]
    assert row["bytes_up"] == 3 * whole
    assert row["bytes_down"] == 3 * (body + 3 * (whole - body))
    assert row.keys() >= {"accuracy", "peer_accuracies", "ensemble_accuracy", "agreement"}


def test_says_what_cannot_be() -> None:
    with pytest.raises(InputError, match="Hydra needs a public set"):
        Experiment(strategy="hydra", rounds=1)
    with pytest.raises(InputError, match=r"strategy\.together: input should be less than 1"):
        Experiment(strategy={"name": "hydra", "together": 1.0}, rounds=1, data={"public": 20})


@pytest.mark.slow
def test_the_student_is_better_than_the_clients_that_teach_it_and_its_heads_disagree() -> None:
    train = {"optimizer": "adam", "lr": 0.003}
    last = simulate(few_samples("hydra", nets="cnn", train=train)).metrics[-1]
    alone = simulate(few_samples("local", nets="cnn", train=train)).metrics[-1]
    assert last["accuracy"] > alone["accuracy"] + 0.1
    assert last["agreement"] < 1.0
