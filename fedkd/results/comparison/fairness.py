"""How a run's accuracy is spread over its clients, each on its own test samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ClientSpread:
    """Accuracies of K clients, as shares: their mean, that of the worst tenth, and two measures of fairness."""

    mean: float
    worst_tenth: float  # of the lowest tenth, of one client at least
    deviation: float  # standard deviation over the clients, with K in its denominator: 0 is fair
    jain: float  # Jain's index, 1/K to 1: 1 is fair
    clients: int


def client_spread(accuracies: Sequence[float]) -> ClientSpread:
    """The spread of one accuracy a client.

    Jain's index (Jain, Chiu and Hawe 1984) is the square of the sum over K times the sum of squares; where all are 0, all are
    equal, and it is 1.

    >>> client_spread([0.5, 1.0])
    ClientSpread(mean=0.75, worst_tenth=0.5, deviation=0.25, jain=0.9, clients=2)
    """
    values = np.asarray(accuracies, dtype=np.float64)  # (K,)
    lowest = np.sort(values)[: max(1, math.ceil(len(values) / 10))]
    squares = len(values) * float((values**2).sum())
    jain = float(values.sum()) ** 2 / squares if squares else 1.0
    return ClientSpread(float(values.mean()), float(lowest.mean()), float(values.std()), jain, len(values))


def last_accuracies(clients: Sequence[Mapping[str, Any]]) -> list[float]:
    """The accuracies of the last round in which clients were evaluated, of lines of ``clients.jsonl``; none where none was.

    >>> last_accuracies([{"round": 1, "accuracy": 0.5}, {"round": 2, "accuracy": 0.75}, {"round": 3, "status": "ok"}])
    [0.75]
    """
    having = [line for line in clients if line["round"] > 0 and line.get("accuracy") is not None]
    last = having[-1]["round"] if having else 0
    return [float(line["accuracy"]) for line in having if line["round"] == last]
