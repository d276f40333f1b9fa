"""Who takes part: seeded draws, in order of client id."""

from __future__ import annotations

import torch

from fedkd.experiment import Experiment
from fedkd.randomness import generator


def draw_cohort(experiment: Experiment, round: int) -> list[int]:
    """The participants of a round: a seeded draw, in order of client id."""
    clients = experiment.data.clients
    number = max(1, int(experiment.participation * clients + 0.5))
    if number == clients:
        return list(range(clients))
    order = torch.randperm(clients, generator=generator(experiment.seed, round, "cohort"))
    return sorted(order[:number].tolist())


def draw_evaluated(experiment: Experiment) -> list[int]:
    """The clients that are evaluated on their own splits: the same ones every round."""
    order = torch.randperm(experiment.data.clients, generator=generator(experiment.seed, "evaluated"))
    return sorted(order[: experiment.evaluate_clients].tolist())
