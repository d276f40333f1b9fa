"""Tf-KD self-training: who teaches from when on, how the student starts, the loss by hand, nets of finished runs, bytes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import fedkd.strategies.tf_kd_self as module
import pytest
import torch
from fedkd.strategies.tf_kd_self import TfKDSelf
from public_runs import server_of, tiny
from safetensors.torch import load_file
from test_born_again import Play, client_in, same

from fedkd import Experiment, InputError, simulate
from fedkd.base.errors import Notice
from fedkd.methods.frozen_nets import TEACHER, student_tensors, tensors_under

MLP = {"nets": "mlp", "net_options": {"mlp": {"hidden": [8]}}}


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Five rounds of two clients, two of them for the teacher."""
    return Play(TfKDSelf(pretraining=0.4), monkeypatch, rounds=5, module=module)


def test_the_net_of_the_first_rounds_teaches_all_others(play: Play) -> None:
    assert sorted(play.teachers) == [3, 4, 5]
    assert all(same(net.state_dict(), play.last(2)) for net in play.teachers.values())
    assert not any(net.training for net in play.teachers.values())
    assert [len(tensors_under(told, TEACHER)) > 0 for told in play.told] == [False, False, False, True, True, True]


def test_a_student_is_left_a_round_however_long_the_teacher_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    for pretraining, taught in ((0.95, [4]), (0.0, [2, 3, 4])):
        assert sorted(Play(TfKDSelf(pretraining=pretraining), monkeypatch, rounds=4, module=module).teachers) == taught


def test_where_nobody_answered_before_the_student_begins_the_start_teaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds are the teacher's, and nobody answers in them: clients have the start, and the server sends it on."""
    play = Play(TfKDSelf(), monkeypatch, rounds=4, module=module)
    server = server_of(play.experiment)
    start = told = play.strategy.first_broadcast(server).copy()
    for server.round in (3, 4):
        uploads = {0: play.strategy.client_update(client_in(play.experiment, round=server.round), told).copy()}
        told = play.strategy.server_update(server, uploads).copy()
        assert same(play.teachers[server.round].state_dict(), start.tensors)


def test_the_student_starts_anew_and_equal_at_all(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fit", lambda *given, **how: {"loss": 1.0})
    starts = [play.strategy.client_update(client_in(play.experiment, id, round=3), play.told[2]) for id in (0, 1)]
    assert same(starts[0].tensors, starts[1].tensors)
    assert not same(starts[0].tensors, play.told[0].tensors) and not same(starts[0].tensors, play.last(2))


@pytest.mark.recomputed("tf_kd_self", by="hand")
def test_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform student of ten classes; a teacher that at T = 2 gives one class three times as much as each other."""
    losses: list[Any] = []

    def noted(net: Any, data: Any, loss: Any, **how: Any) -> dict[str, float]:
        losses.append(loss)
        return {"loss": 1.0}

    strategy = TfKDSelf(pretraining=0.5, alpha=0.75, temperature=2.0, scale=0.5)
    play = Play(strategy, monkeypatch, rounds=1, module=module)
    play.experiment = tiny(strategy, rounds=2)
    monkeypatch.setattr(module, "fit", noted)
    client = client_in(play.experiment, round=2)
    strategy.client_update(client, play.told[1])
    batch = next(client.train.batches(epochs=1, batch_size=3, rng=client.rng("test")))
    logits, teacher = torch.zeros(3, 10, requires_grad=True), torch.zeros(3, 10, requires_grad=True)
    said = teacher + torch.eye(10)[3] * 2 * math.log(3)
    parts = losses[0](lambda inputs: logits, batch, lambda inputs: said)
    divergence = 0.25 * math.log(2.5) + 0.75 * math.log(10 / 12)  # of (3, 1 ... 1) / 12 from a tenth each
    assert parts["cross_entropy"].item() == pytest.approx(0.25 * math.log(10))
    assert parts["distillation"].item() == pytest.approx(0.75 * 0.5 * 4 * divergence, rel=1e-4)
    sum(parts.values()).backward()
    assert teacher.grad is None and bool(logits.grad.any())  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds whose checkpoints stayed."""
    place = tmp_path_factory.mktemp("runs") / "fedavg"
    simulate(tiny("fedavg", rounds=2, record={"checkpoints": 2}), out=place)
    return place


@pytest.mark.slow
def test_the_net_of_a_finished_run_or_of_a_round_of_it_teaches_from_the_start(finished: Path) -> None:
    final, first = (TfKDSelf(teacher=f"{finished}{round}") for round in ("", "@1"))
    told = [strategy.first_broadcast(server_of(tiny(strategy))) for strategy in (final, first)]
    assert same(tensors_under(told[0], TEACHER), load_file(finished / "nets" / "global.safetensors"))
    assert not same(tensors_under(told[0], TEACHER), tensors_under(told[1], TEACHER))
    assert same(student_tensors(told[0]), student_tensors(told[1]))
    rows = simulate(tiny(final, rounds=2)).metrics
    assert all(row["distillation"] > 0 for row in rows[1:])
    assert [row["bytes_down"] for row in rows[1:]] == [2 * row["bytes_up"] for row in rows[1:]]


@pytest.mark.slow
def test_a_run_that_holds_no_such_net_is_refused_in_a_line(finished: Path, tmp_path: Path) -> None:
    other = tiny(TfKDSelf(teacher=str(finished)), net_options={"mlp": {"hidden": [9]}})
    with pytest.raises(InputError, match=r"strategy.teacher: the net of .* is no 'mlp' for this run's classes and inputs"):
        simulate(other)
    simulate(tiny("local"), out=tmp_path / "local")
    with pytest.raises(InputError, match=r"strategy.teacher: .* has 2 nets, and one teaches: take a run of fedavg"):
        simulate(tiny(TfKDSelf(teacher=str(tmp_path / "local"))))
    with pytest.raises(InputError, match="nowhere holds no run"):
        simulate(tiny(TfKDSelf(teacher="nowhere")))


def test_one_round_teaches_nobody_and_that_is_said() -> None:
    with pytest.warns(Notice, match=r"rounds = 1 is the teacher's: no student is taught, and this is FedAvg: set it to 2"):
        tiny(TfKDSelf(), rounds=1)


@pytest.mark.slow
def test_bytes_are_those_of_one_net_up_and_of_two_down_while_the_student_is_taught() -> None:
    rows = simulate(tiny(TfKDSelf(), rounds=4)).metrics
    one = rows[1]["bytes_up"]
    assert [row["bytes_up"] for row in rows[1:]] == [one] * 4
    assert [row["bytes_down"] for row in rows[1:]] == [one, one, one, 2 * one]


@pytest.mark.slow
def test_without_the_teachers_part_the_student_is_fedavg_from_its_own_weights() -> None:
    rows = simulate(tiny(TfKDSelf(alpha=0.0), rounds=2)).metrics
    assert rows[2]["distillation"] == 0 and rows[2]["cross_entropy"] == rows[2]["loss"]


@pytest.mark.slow
def test_the_student_of_few_digits_is_as_good_as_its_teacher_or_better() -> None:
    data = {"clients": 1, "partition": "iid", "train_limit": 400}
    train = {"lr": 0.05, "batch_size": 32}
    rows = simulate(Experiment(strategy=TfKDSelf(temperature=3.0), rounds=40, nets="cnn", data=data, train=train)).metrics
    assert rows[-1]["accuracy"] >= rows[20]["accuracy"] - 0.005
