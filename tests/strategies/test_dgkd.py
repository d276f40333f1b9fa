"""DGKD: whose turn it is, who guides whom, and that the chain ends in a student that learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.dgkd import DGKD
from public_runs import few_samples, server_of, tiny

from fedkd import Experiment, InputError, Knowledge, Server, simulate


def trained(server: Server, round: int) -> set[str]:
    """The nets of the chain whose weights a round changes."""
    names = {"assistant 1": "assistant", "student": "student"}
    nets = {"assistant 1": server.net("assistant 1", init="own", keep=True), "student": server.net("student", keep=True)}
    before = {name: net.state_dict()["heads.classifier.weight"].clone() for name, net in nets.items()}
    server.round = round
    upload = Knowledge.of("weights", server.net("a client's").state_dict())
    server.experiment.strategy.server_update(server, {0: upload})
    return {
        names[name] for name, net in nets.items() if not torch.equal(before[name], net.state_dict()["heads.classifier.weight"])
    }


def test_the_rounds_are_shared_out_and_the_student_comes_last() -> None:
    server = server_of(tiny(DGKD(assistants=("mlp",)), rounds=4))
    assert [trained(server, round) for round in (1, 2, 3, 4)] == [{"assistant"}, {"assistant"}, {"student"}, {"student"}]


def guided(drop: bool, **changes: Any) -> float:
    """The student's loss in its first step, with a teacher and two assistants above it."""
    strategy = DGKD(assistants=("mlp", "mlp"), drop=drop, temperature=2.0, **changes)
    server = server_of(tiny(strategy, rounds=3, train={"batch_size": 64, "lr": 1e-9}))
    server.round = 3
    upload = Knowledge.of("weights", server.net("a client's", init="own").state_dict())
    server.experiment.strategy.server_update(server, {0: upload})
    return server.reported["server_distillation"]


def test_a_student_hears_everybody_above_it_but_the_one_that_is_dropped() -> None:
    everybody = guided(drop=False)
    assert 0 < guided(drop=True) < everybody
    assert guided(drop=False, balance=0.5) == pytest.approx(0.5 * everybody)


def test_a_frozen_assistant_keeps_its_batch_statistics() -> None:
    options = {"resnet18": {"width": 8}, "mlp": {"hidden": [8]}}
    server = server_of(tiny(DGKD(assistants=("resnet18",)), rounds=2, net_options=options))
    assistant = server.net("assistant 1", architecture="resnet18", init="own", keep=True)
    upload = Knowledge.of("weights", server.net("a client's").state_dict())
    for round in (1, 2):
        before = {name: tensor.clone() for name, tensor in assistant.state_dict().items()}
        server.round = round
        server.experiment.strategy.server_update(server, {0: upload})
        changed = [name for name, tensor in assistant.state_dict().items() if not torch.equal(tensor, before[name])]
        assert bool(changed) == (round == 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 1}, "rounds: DGKD needs one for each assistant and one for the student: 2"),
        (
            {"strategy": {"name": "dgkd", "assistants": ["cnnn"]}},
            "strategy.assistants: net 'cnnn' is unknown: did you mean 'cnn'?",
        ),
        ({"strategy": {"name": "dgkd", "balance": 2}}, "strategy.balance: input should be less than or equal to 1, got 2"),
    ],
)
def test_says_what_cannot_be(changes: dict[str, Any], message: str) -> None:
    settings = {"strategy": {"name": "dgkd", "assistants": ["cnn"]}, "rounds": 2, "data": {"public": 40}} | changes
    with pytest.raises(InputError) as raised:
        Experiment(**settings)
    assert str(raised.value).startswith(message)


@pytest.mark.slow
def test_assistant_and_student_learn_one_after_the_other() -> None:
    """Both end above their teachers, the clients' nets, which reach 64.4 % alone (``test_multi_teacher``)."""
    strategy = DGKD(assistants=("mlp",))
    rows = simulate(few_samples(strategy, server_net="cnn", train={"optimizer": "adam", "lr": 0.003}, evaluate_every=5)).metrics
    assert rows[5]["assistant_1_accuracy"] > 0.65 > 0.3 > rows[5]["student_accuracy"]
    assert rows[10]["assistant_1_accuracy"] == rows[5]["assistant_1_accuracy"]  # it is frozen
    assert rows[10]["student_accuracy"] > 0.65
