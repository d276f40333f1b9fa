"""Snapshot distillation: who teaches in which round, the loss by hand, the rate of a cycle, and bytes."""

from __future__ import annotations

import math
from typing import Any

import fedkd.strategies.snapshot as snapshot_module
import pytest
import torch
from fedkd.strategies.snapshot import Snapshot
from public_runs import tiny
from test_born_again import Play, client_in, same

from fedkd import Experiment, simulate
from fedkd.methods.frozen_nets import TEACHER, tensors_under


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Five rounds of two clients in cycles of two."""
    return Play(Snapshot(cycle=2), monkeypatch, rounds=5, module=snapshot_module)


def test_the_net_at_the_end_of_a_cycle_teaches_through_the_next(play: Play) -> None:
    assert sorted(play.teachers) == [3, 4, 5]
    states = {round: net.state_dict() for round, net in play.teachers.items()}
    assert same(states[3], play.last(2)) and same(states[4], play.last(2)) and same(states[5], play.last(4))
    assert not any(parameter.requires_grad for net in play.teachers.values() for parameter in net.parameters())
    assert not any(net.training for net in play.teachers.values())


def test_the_snapshot_travels_but_where_the_net_received_is_the_snapshot(play: Play) -> None:
    beside = [len(tensors_under(told, TEACHER)) > 0 for told in play.told]
    assert beside == [False, False, False, True, False, True]
    assert same(tensors_under(play.told[3], TEACHER), play.last(2))
    assert same(tensors_under(play.told[5], TEACHER), play.last(4))


def test_who_missed_the_end_of_a_cycle_takes_what_it_holds_as_the_snapshot(play: Play) -> None:
    """Nobody answered in round 2: in round 3 clients have what round 1 made."""
    before = play.told[1]
    play.teachers.clear()
    play.strategy.client_update(client_in(play.experiment, round=3), before)
    assert same(play.teachers[3].state_dict(), play.last(1))


def test_where_nobody_answered_at_the_end_of_a_cycle_the_same_net_teaches_through_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cycles of three, nobody answers in round 3: in rounds 4 to 6 the teacher is what round 2 made."""
    play = Play(Snapshot(cycle=3), monkeypatch, rounds=2, module=snapshot_module)
    play.told.append(play.told[2])
    for round in (4, 5, 6):
        play.server.round = round
        uploads = {id: play.update(id, round) for id in (0, 1)}
        play.told.append(play.strategy.server_update(play.server, uploads).copy())
        assert same(play.teachers[round].state_dict(), play.last(2))


@pytest.mark.recomputed("snapshot", by="hand")
def test_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes: the net says (1/2, 1/2), the snapshot at T = 2 (1/4, 3/4); half of log 2, and log 2."""
    losses: list[Any] = []

    def noted(net: Any, data: Any, loss: Any, **how: Any) -> dict[str, float]:
        losses.append(loss)
        return {"loss": 1.0}

    play = Play(Snapshot(cycle=1, temperature=2.0, label_weight=0.5), monkeypatch, rounds=1, module=snapshot_module)
    monkeypatch.setattr(snapshot_module, "fit", noted)
    client = client_in(play.experiment, round=2)
    play.strategy.client_update(client, play.told[1])
    batch = next(client.train.batches(epochs=1, batch_size=3, rng=client.rng("test")))
    logits = torch.zeros(3, 10, requires_grad=True)
    teacher = torch.zeros(3, 10, requires_grad=True)
    parts = losses[0](lambda inputs: logits, batch, lambda inputs: teacher + torch.eye(10)[3] * 2 * math.log(3))
    assert parts["cross_entropy"].item() == pytest.approx(0.5 * math.log(10))
    assert parts["distillation"].item() == pytest.approx(math.log(10))  # whatever the target: the student is uniform
    parts["distillation"].backward()
    target = torch.ones(10).scatter(0, torch.tensor(3), 3.0) / 12  # e^(2 log 3 / 2) = 3 against nine times 1
    torch.testing.assert_close(logits.grad, (0.1 - target).expand(3, 10) / 3)
    assert teacher.grad is None


@pytest.mark.slow
def test_rates_run_their_schedule_once_a_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    fit, train = snapshot_module.fit, snapshot_module.train_on_labels

    def note(*given: Any, optimizer: torch.optim.Optimizer, **how: Any) -> dict[str, float]:
        rates.append(optimizer.param_groups[0]["lr"])
        return (fit if len(given) > 2 else train)(*given, optimizer=optimizer, **how)

    monkeypatch.setattr(snapshot_module, "fit", note)
    monkeypatch.setattr(snapshot_module, "train_on_labels", note)
    train_settings = {"schedule": "cosine", "lr": 0.1, "batch_size": 8}
    experiment = tiny(Snapshot(cycle=2), rounds=4, train=train_settings)
    simulate(experiment)
    clients = len(rates) // 4
    first, second, third, fourth = rates[::clients]
    assert first == third == experiment.train.lr_at(1, 2) and second == fourth == experiment.train.lr_at(2, 2) < first


@pytest.mark.slow
def test_bytes_are_those_of_one_net_up_and_of_two_down_within_a_later_cycle() -> None:
    rows = simulate(tiny(Snapshot(cycle=2), rounds=4)).metrics
    one = rows[1]["bytes_up"]
    assert [row["bytes_up"] for row in rows[1:]] == [one] * 4
    assert [row["bytes_down"] for row in rows[1:]] == [one, one, one, 2 * one]


@pytest.mark.slow
def test_a_run_shorter_than_a_cycle_is_fedavg() -> None:
    """With one client, whose optimiser's state makes the only difference otherwise."""
    taught, plain = (simulate(tiny(strategy, rounds=1)).metrics[1] for strategy in (Snapshot(), "fedavg"))
    assert taught["accuracy"] == plain["accuracy"] and taught["loss"] == plain["loss"]


@pytest.mark.slow
def test_one_net_learns_digits_in_cycles() -> None:
    settings = {"rounds": 12, "evaluate_every": 12, "data": {"clients": 1, "partition": "iid"}, "nets": "cnn"}
    train = {"lr": 0.05, "batch_size": 32, "schedule": "cosine"}
    row = simulate(Experiment(strategy=Snapshot(cycle=3), train=train, **settings)).metrics[-1]
    assert row["accuracy"] > 0.95
