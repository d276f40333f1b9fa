"""Who takes part, who fails and who is late: seeded draws, in order of client id."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fedkd.base.randomness import generator
from fedkd.experiment.algorithm.settings import Settings

#: In this order they share the interval from 0 to 1; the rest of it is no fault.
FAULTS = ("dropout", "straggle", "crash", "nan")


def cohort_size(experiment: Settings) -> int:
    """How many clients take part in a round: the nearest whole number, at least one; with "async", a buffer of them."""
    if experiment.participation == "async":
        return experiment.asynchrony.buffer
    return max(1, int(experiment.participation * experiment.data.clients + 0.5))


def draw_cohort(experiment: Settings, round: int) -> list[int]:
    """The participants of a round: a seeded draw, in order of client id."""
    clients, number = experiment.data.clients, cohort_size(experiment)
    if number == clients:
        return list(range(clients))
    order = torch.randperm(clients, generator=generator(experiment.seed, round, "cohort"))
    return sorted(order[:number].tolist())


def draw_evaluated(experiment: Settings) -> list[int]:
    """The clients that are evaluated on their own splits: the same ones every round."""
    order = torch.randperm(experiment.data.clients, generator=generator(experiment.seed, "evaluated"))
    return sorted(order[: experiment.evaluate_clients].tolist())


def draw_fault(experiment: Settings, round: int, client: int) -> str:
    """What goes wrong at a client in a round: a name of ``FAULTS``, or an empty one."""
    shares = [getattr(experiment.faults, name) for name in FAULTS]
    if not any(shares):
        return ""
    drawn = float(torch.rand((), generator=generator(experiment.seed, round, "fault", client), dtype=torch.float64))
    for position, name in enumerate(FAULTS):
        if drawn < sum(shares[: position + 1]):
            return name
    return ""


def draw_in_time(experiment: Settings, round: int, exchange: int, asked: Sequence[int]) -> set[int]:
    """Whose reply comes before the wait of an exchange ends: no straggler, and the first ``enough`` of a seeded order."""
    ready = [client for client in asked if draw_fault(experiment, round, client) != "straggle"]
    if (enough := enough_of(experiment, len(asked))) >= len(ready):
        return set(ready)
    order = torch.randperm(len(ready), generator=generator(experiment.seed, round, exchange, "arrival")).tolist()
    return {ready[position] for position in order[:enough]}


def enough_of(experiment: Settings, asked: int) -> int:
    """How many replies of so many end the wait."""
    return max(1, math.ceil(experiment.enough * asked - 1e-9))


def attackers(experiment: Settings) -> frozenset[int]:
    """The clients that attack, the same ones for the whole run."""
    if not experiment.attack.name:
        return frozenset()
    number = int(experiment.attack.share * experiment.data.clients + 0.5)
    order = torch.randperm(experiment.data.clients, generator=generator(experiment.seed, "attackers"))
    return frozenset(order[:number].tolist())
