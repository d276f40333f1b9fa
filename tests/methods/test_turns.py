"""Turns: who learns from which batch when, how many exchanges that takes, and what travels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fedkd.strategies.dml import DML
from test_lockstep import memories, node_of, peers, tracked
from torch import nn

from fedkd import Experiment, simulate
from fedkd.methods.peers import turns
from fedkd.methods.peers.turns import UPDATES, Plan, UpdateName, exchanges, plan

MODES: list[UpdateName] = ["simultaneous", "sequential", "alternating"]


def planned(update: UpdateName, *, clients: int = 3, round: int = 1, **changes: Any) -> Plan:
    return plan(node_of(peers(DML(update=update), clients=clients, **changes), 0, round=round), update)


def test_in_sequential_mode_each_learns_once_from_each_batch_in_an_order_drawn_for_it() -> None:
    turns = UPDATES["sequential"](20, 3, torch.Generator().manual_seed(0))
    orders = [tuple(next(iter(turn.learners)) for turn in turns if turn.batch == batch) for batch in range(20)]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert len(set(orders)) == 6  # all there are
    assert [turn.learners for turn in planned("sequential").turns] != [
        turn.learners for turn in planned("sequential", round=2).turns
    ]


@pytest.mark.parametrize("update", MODES)
def test_server_and_clients_draw_the_same_plan(update: UpdateName) -> None:
    experiment = peers(DML(update=update), train={"epochs": 2})
    plans = [plan(node_of(experiment, id), update) for id in (None, 0, 1, 2)]
    for other in plans[1:]:
        assert other.turns == plans[0].turns
        assert [draw.seed for draw in other.draws] == [draw.seed for draw in plans[0].draws]
        assert [other.digest(number) for number in range(6)] == [plans[0].digest(number) for number in range(6)]
    assert len({plans[0].digest(number) for number in range(6)}) == 6


def test_a_plan_is_the_same_whether_it_is_drawn_anew_or_shared_with_a_peer_of_this_process() -> None:
    experiment = peers(DML())
    first, shared = (plan(node_of(experiment, id)) for id in (0, 1))
    turns._DRAWN.clear()
    anew = plan(node_of(experiment, 1))
    assert shared.drawn is first.drawn is not anew.drawn
    assert [draw.positions.tolist() for draw in anew.draws] == [draw.positions.tolist() for draw in shared.draws]
    assert anew.digest(0) == shared.digest(0)
    assert plan(node_of(experiment, 0, round=2)).drawn is not first.drawn


def test_peers_of_one_process_share_a_batch_unless_one_has_written_to_it() -> None:
    experiment = peers(DML())
    first, second = (plan(node_of(experiment, id)) for id in (0, 1))
    batch = first.batch(0)
    assert second.batch(0) is batch
    as_taken = batch.inputs.clone()
    batch.inputs.mul_(2.0)  # as a net with an in-place first layer does
    assert second.batch(0) is not batch
    assert torch.equal(second.batch(0).inputs, as_taken)
    second.batch(0).labels.fill_(0)
    assert first.batch(0).labels.unique().numel() > 1


def test_a_peer_that_normalises_by_itself_or_has_labels_of_its_own_shares_no_batch() -> None:
    own = peers(DML(), data={"normalise": "client"})
    assert plan(node_of(own, 0)).batch(0) is not plan(node_of(own, 1)).batch(0)
    experiment = peers(DML())
    liar = node_of(experiment, 1)
    labels = liar.train_samples.labels.clone()
    labels[liar.train_samples.indices] = 0
    liar.train_samples = replace(liar.train_samples, labels=labels)
    honest = plan(node_of(experiment, 0))
    assert honest.batch(0).labels.sum() > 0 == plan(liar).batch(0).labels.sum()
    assert honest.digest(0) != plan(liar).digest(0)


def test_the_hash_is_of_ids_and_labels_in_their_order() -> None:
    schedule, same, other_round = planned("simultaneous"), planned("simultaneous"), planned("simultaneous", round=2)
    assert schedule.digest(0) == same.digest(0) != other_round.digest(0)
    relabelled = planned("simultaneous")
    labels = relabelled.data.samples.labels.clone()
    labels[relabelled.batch(0).ids[3]] = (labels[relabelled.batch(0).ids[3]] + 1) % 10
    object.__setattr__(relabelled.data.samples, "labels", labels)
    assert relabelled.digest(0) != schedule.digest(0)
    assert relabelled.digest(1) == schedule.digest(1)


@pytest.mark.parametrize(
    ("update", "clients", "expected"),
    [("simultaneous", 1, 4), ("simultaneous", 3, 4), ("alternating", 3, 4), ("sequential", 1, 4), ("sequential", 3, 10)],
)
def test_a_round_has_an_exchange_a_turn_and_one_more(update: UpdateName, clients: int, expected: int) -> None:
    """40 samples are batches of 16, 16 and 8."""
    assert exchanges(peers(DML(update=update), clients=clients), update) == expected
    assert len(planned(update, clients=clients).turns) == expected - 1


def test_an_epoch_more_is_as_many_batches_more_and_a_last_sample_is_never_alone() -> None:
    assert exchanges(peers("dml", train={"epochs": 2})) == 7
    assert [len(draw.positions) for draw in planned("simultaneous", samples=33).draws] == [16, 17]
    assert exchanges(peers("dml", samples=33)) == 3


@pytest.mark.parametrize("clients", [1, 2, 3])
@pytest.mark.parametrize("update", MODES)
def test_bytes_are_those_of_the_logits_that_are_said_and_heard(update: UpdateName, clients: int) -> None:
    """A batch of B is 4 * 10 B bytes of logits; all three batches together are 1600.

    In sequential mode all learners of a batch but the last say what they now think of it. There, and when alternating, what all
    said is told to the learner of the turn alone.
    """
    row = simulate(peers(DML(update=update), clients=clients, nets="mlp")).metrics[1]
    said = {"simultaneous": clients, "sequential": 2 * clients - 1, "alternating": clients}[update]
    listeners = {"simultaneous": clients, "sequential": clients, "alternating": 1}[update]
    assert row["bytes_up"] == said * 1600
    assert row["bytes_down"] == listeners * clients * 1600


def linear(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes, dtype=torch.float32))


def one_batch(update: UpdateName) -> Experiment:
    """Two linear nets, one batch of 16, steps of length 1."""
    train = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    return peers(DML(update=update), clients=2, samples=16, nets="test_turns:linear", train=train)


@pytest.mark.parametrize("update", MODES)
def test_whose_turn_comes_second_hears_what_the_first_has_learned(update: UpdateName) -> None:
    """By hand: simultaneous peers learn from what was said before, sequential ones in turn; alternating, one alone."""
    experiment = one_batch(update)
    schedule = plan(node_of(experiment, 0), update)
    batch = schedule.batch(0)
    images = batch.inputs.flatten(1).double()  # (16, 64)
    nets = [node_of(experiment, id).net(init="own") for id in range(2)]
    weights = [[p.detach().double().requires_grad_() for p in net.parameters()] for net in nets]  # (10, 64), (10,)
    first = [F.linear(images, *each).detach() for each in weights]
    order = [sorted(turn.learners) for turn in schedule.turns]
    assert order in {"simultaneous": [[[0, 1]]], "sequential": [[[0], [1]], [[1], [0]]], "alternating": [[[0]]]}[update]
    now = list(first)
    for learners in order:
        for me in learners:
            logits, target = F.linear(images, *weights[me]), now[1 - me].softmax(1)
            divergence = (target * (target.log() - logits.log_softmax(1))).sum(1).mean()
            loss = F.cross_entropy(logits, batch.labels) + divergence
            gradients = torch.autograd.grad(loss, weights[me])
            weights[me] = [(p - g).detach().requires_grad_() for p, g in zip(weights[me], gradients, strict=True)]
        now = [
            F.linear(images, *each).detach() if update == "sequential" else z for each, z in zip(weights, first, strict=True)
        ]
    _, found = memories(experiment)
    for id in range(2):
        for trained, expected in zip(found[id].under("net/main/").values(), weights[id], strict=True):
            assert torch.allclose(trained.double(), expected, atol=1e-5)


@pytest.mark.slow
def test_sequential_and_simultaneous_peers_learn_different_things() -> None:
    losses = [simulate(one_batch(update)).metrics[1]["distillation"] for update in ("simultaneous", "sequential")]
    assert losses[0] != losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("update", MODES)
def test_absent_peers_lose_their_turns_and_hold_nobody_up(update: UpdateName) -> None:
    history, found = memories(peers(DML(update=update), nets="test_lockstep:Tiny", participation=0.6, rounds=4))
    assert [row["clients_ok"] for row in history.metrics[1:]] == [2] * 4
    took_part = {id: sum(row["client"] == id and row.get("status") == "ok" for row in history.clients) for id in range(3)}
    each = 1 if update == "alternating" else 3
    assert [tracked(memory) for _, memory in sorted(found.items())] == [{each * took_part[id]} for id in sorted(found)]
