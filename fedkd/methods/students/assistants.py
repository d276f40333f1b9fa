"""A chain of assistants, each trained before the next one, that leads from teachers to a student at the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedkd.base.errors import InputError, under
from fedkd.engine.strategy import Strategy
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.predictors import Classifier
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.settings import Settings
from fedkd.knowledge.knowledge import Knowledge
from fedkd.methods.students import student as learner
from fedkd.methods.students.teachers import Runs
from fedkd.nets import Net, check_net


def check(strategy: Strategy, experiment: Settings, runs: Runs, assistants: Sequence[str], *, balance: float) -> None:
    """As for any student, whom guides teach, or labels as far as ``balance`` is below 1; and the assistants are known nets,
    with a round at least for each of the chain.
    """
    learner.check(strategy, experiment, runs)
    learner.check_lesson(experiment, guided=balance > 0, labels=balance < 1, key="balance")
    if len(assistants) >= experiment.rounds:
        name, needed = type(strategy).__name__, len(assistants) + 1
        raise InputError(f"rounds: {name} needs one for each assistant and one for the student: {needed}")
    for name in assistants:
        with under("strategy.assistants"):
            check_net(name, experiment.net_options.get(name, {}))


def chain_of(server: Server, assistants: Sequence[str]) -> list[Net]:
    """The assistants, from large to small, then the student; all kept at the server."""
    kinds = enumerate(assistants, start=1)
    nets = [server.net(f"assistant {n}", architecture=kind, init="own", keep=True) for n, kind in kinds]
    return [*nets, learner.student_net(server)]


def whose_turn(node: Node, assistants: Sequence[str]) -> int:
    """The place in the chain of the net that learns in this round: the rounds are shared out evenly."""
    return (node.round - 1) * (len(assistants) + 1) // node.experiment.rounds


def chain_predictors(node: Node, broadcast: Knowledge, runs: Runs, assistants: Sequence[str]) -> Mapping[str, Classifier]:
    """The student, and the assistants at the server; at a client that trains one, its own net."""
    chain = chain_of(node, assistants) if isinstance(node, Server) else []
    beside = {f"assistant_{number}": net for number, net in enumerate(chain[:-1], start=1)}
    return learner.student_predictors(node, broadcast, runs, beside=beside)
