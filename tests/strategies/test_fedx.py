"""FedX's client half against its definition, term by term, in plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from anchor_runs import nt_xent, relations
from fedkd.strategies.fedx import FedX
from public_runs import server_of
from torch import Tensor

import fedkd.methods.encoders.global_encoder as training_module
from fedkd import Experiment, InputError, Knowledge, Notice, load, simulate
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.functions import Functions
from fedkd.knowledge.memory import Memory
from fedkd.methods.frozen_nets import TEACHER, student_tensors, tensors_under

HEADS = ("projection", "prediction")


def client_of(strategy: FedX, rounds: int = 1, round: int = 1) -> Client:
    data = {"clients": 2, "partition": "iid", "train_limit": 40}
    experiment = Experiment(strategy=strategy, data=data, train={"batch_size": 8}, nets="cnn", rounds=rounds)
    client = Client(0, experiment, Functions(), experiment.federation(), Memory(), torch.device("cpu"))
    client.round = round
    return client


def first_batch(strategy: FedX, monkeypatch: pytest.MonkeyPatch, *, rounds: int = 1, round: int = 1) -> dict[str, Any]:
    """The parts of the loss on the first batch, and what they are made of: z of the net, g of another net as the teacher."""
    client = client_of(strategy, rounds, round)
    teacher = client.net("other", heads=HEADS, init="own")
    broadcast = Knowledge.of("weights", {name: tensor.clone() for name, tensor in teacher.state_dict().items()})
    seen: dict[str, Any] = {}

    def look(net: Any, data: Any, loss: Callable[..., dict[str, Tensor]], **rest: Any) -> dict[str, float]:
        student = client.net("student", heads=HEADS, init="own")  # else student and teacher are equal before the first step
        batch = next(data.batches(epochs=1, batch_size=8, rng=torch.Generator().manual_seed(0)))
        seen["parts"] = {name: part.item() for name, part in loss(student.eval(), batch).items()}
        with torch.no_grad():
            views = batch.view(1), batch.view(2), next(client.train.stream("anchors")).view(1)
            seen["z"] = [student.head("projection", student.features(view)).double() for view in views]
            seen["p"] = [student.head("prediction", z.float()).double() for z in seen["z"]]
            seen["g"] = [teacher.head("projection", teacher.eval().features(view)).double() for view in views]
        return {}

    monkeypatch.setattr(training_module, "fit", look)
    strategy.client_update(client, broadcast)
    return seen


def reverse_kl(a: Tensor, b: Tensor, anchors: Tensor, temperature: float, target: float) -> float:
    ra, rb = relations(a, anchors, temperature), relations(b, anchors, temperature)
    ta, tb = relations(a, anchors, target), relations(b, anchors, target)
    total = 0.0
    for i in range(len(a)):
        m = [(x + y) / 2 for x, y in zip(ta[i], tb[i], strict=True)]
        total += sum(q * (math.log(q / x) + math.log(q / y)) / 2 for q, x, y in zip(m, ra[i], rb[i], strict=True))
    return total / len(a)


@pytest.mark.recomputed("fedx", by="formula")
@pytest.mark.slow
def test_the_four_terms_are_those_of_the_official_code(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = FedX(temperature=0.5, local_target_temperature=0.4, global_target_temperature=0.3)
    seen = first_batch(strategy, monkeypatch)
    (z1, z2, zr), (p1, p2, _), (_, g2, gr) = seen["z"], seen["p"], seen["g"]
    expected = {
        "local_contrastive": nt_xent(z1, z2, 0.5),
        "global_contrastive": nt_xent(p1, g2, 0.5),
        "local_relational": reverse_kl(z1, z2, zr, 0.5, 0.4),
        "global_relational": reverse_kl(p1, p2, gr, 0.5, 0.3),
    }
    assert seen["parts"] == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.slow
def test_divergence_and_target_temperatures_are_options_that_do_something(monkeypatch: pytest.MonkeyPatch) -> None:
    default = first_batch(FedX(), monkeypatch)["parts"]
    jsd = first_batch(FedX(divergence="jsd"), monkeypatch)["parts"]
    sharp = first_batch(FedX(local_target_temperature=0.05), monkeypatch)["parts"]
    assert jsd["local_relational"] != default["local_relational"]
    assert (jsd["local_contrastive"], sharp["local_contrastive"]) == (default["local_contrastive"],) * 2
    assert sharp["local_relational"] != default["local_relational"]
    assert sharp["global_relational"] == default["global_relational"]


def test_the_teacher_is_the_broadcast_and_stays_as_it_was() -> None:
    strategy = FedX()
    client = client_of(strategy)
    before = {name: tensor.clone() for name, tensor in client.net("start", heads=HEADS).state_dict().items()}
    upload = strategy.client_update(client, Knowledge.of("weights", before))
    after = client.net("teacher", heads=HEADS).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any(not torch.equal(upload.tensors[name], tensor) for name, tensor in before.items())
    assert upload.weight == len(client.train)


def small(strategy: dict[str, Any], rounds: int = 3) -> Experiment:
    data = {"clients": 2, "partition": "iid", "train_limit": 80}
    return Experiment(strategy=strategy, rounds=rounds, nets="cnn", data=data, train={"batch_size": 8})


def test_before_its_first_round_clients_train_the_base_alone() -> None:
    rows = simulate(small({"name": "fedx", "start_round": 3})).metrics
    alone = simulate(small({"name": "fedsimclr"})).metrics
    for row, other in zip(rows[1:3], alone[1:3], strict=True):
        assert "global_contrastive" not in row
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert rows[3]["global_contrastive"] > 0
    with pytest.raises(InputError, match=r"strategy.start_round = 4: there are 3 rounds, so FedX never starts: lower it"):
        small({"name": "fedx", "start_round": 4})


def test_the_global_terms_grow_from_the_first_round_of_theirs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """exp(-5 (1 - t / 2)^2) of the whole is what they weigh after t of 2 rounds; the local terms do not change."""
    soft: dict[str, Any] = {"start_round": 2, "temperature": 0.5, "global_target_temperature": 0.3}
    for round, share in ((2, math.exp(-5)), (3, math.exp(-5 / 4)), (4, 1.0)):
        whole = first_batch(FedX(**soft), monkeypatch, rounds=5, round=round)["parts"]
        grown = first_batch(FedX(**soft, ramp=0.4), monkeypatch, rounds=5, round=round)["parts"]
        assert grown["global_contrastive"] == pytest.approx(share * whole["global_contrastive"])
        assert grown["global_relational"] == pytest.approx(share * whole["global_relational"])
        assert grown["local_relational"] == whole["local_relational"]


def test_a_moving_average_of_global_nets_teaches_and_travels_beside_the_newest() -> None:
    strategy = FedX(teacher_decay=0.75, start_round=2)
    server = server_of(small({"name": "fedx"}))
    first = strategy.first_broadcast(server)
    assert not tensors_under(first, TEACHER)
    told = []
    for round, value in ((1, 1.0), (2, 5.0)):
        server.round = round
        same = {name: torch.full_like(t, value) for name, t in first.tensors.items()}
        told.append(strategy.server_update(server, {0: Knowledge.of("weights", same, weight=1.0)}))
    name = next(name for name, tensor in first.tensors.items() if tensor.is_floating_point())
    assert [tensors_under(each, TEACHER)[name].flatten()[0].item() for each in told] == [1.0, 2.0]
    assert [student_tensors(each)[name].flatten()[0].item() for each in told] == [1.0, 5.0]


def test_the_average_costs_a_net_down_from_the_round_on_in_which_it_teaches() -> None:
    rows = simulate(small({"name": "fedx", "teacher_decay": 0.5, "start_round": 3}, rounds=4)).metrics
    one = rows[1]["bytes_up"]
    assert [row["bytes_up"] for row in rows[1:]] == [one] * 4
    assert [row["bytes_down"] for row in rows[1:]] == [one, one, 2 * one, 2 * one]


@pytest.mark.slow
def test_fedprox_without_its_term_is_fedavg_and_with_it_stays_nearer() -> None:
    data = {"clients": 2, "partition": "iid", "train_limit": 80}
    runs = {}
    for name, strategy in {"avg": "fedavg", "0": {"name": "fedprox", "mu": 0.0}, "10": {"name": "fedprox", "mu": 10.0}}.items():
        experiment = Experiment(strategy=strategy, rounds=1, data=data, train={"batch_size": 8, "lr": 0.05})
        runs[name] = simulate(experiment).metrics[1]
    assert runs["0"]["loss"] == runs["avg"]["loss"]
    assert runs["0"]["accuracy"] == runs["avg"]["accuracy"]
    assert runs["10"]["proximal"] > 0
    assert runs["10"]["cross_entropy"] > runs["avg"]["cross_entropy"]  # held near the start, it learns less


@pytest.mark.parametrize(
    ("left_out", "idle"),
    [
        (["global_relational", "global_contrastive"], {"teacher_decay": 0.9}),
        (["local_relational"], {"local_target_temperature": 0.3}),
        (["local_relational", "global_relational"], {"detach_target": True}),
    ],
)
def test_what_only_terms_that_are_left_out_would_read_is_said(left_out: list[str], idle: dict[str, Any]) -> None:
    with pytest.warns(Notice, match=f"strategy.{next(iter(idle))} = .* does nothing here: strategy.without leaves out"):
        small({"name": "fedx", "without": left_out, **idle}, rounds=1)


def test_a_load_of_other_weights_names_what_is_wrong() -> None:
    net = client_of(FedX()).net(heads=("classifier",))
    with pytest.raises(ValueError, match="missing or unexpected"):
        load(net, {})
