"""How the weight of distillation grows over a run."""

from __future__ import annotations

import math

from fedkd.experiment.algorithm.node import Node


def sigmoid_ramp(time: float, length: float) -> float:
    """The ramp-up of Laine and Aila (arXiv 1610.02242): exp(-5 (1 - time / length)^2) until ``length``, 1 from then on.

    >>> sigmoid_ramp(80, 80), round(sigmoid_ramp(40, 80), 4), sigmoid_ramp(3, 0)
    (1.0, 0.2865, 1.0)
    """
    if time >= length:
        return 1.0
    return math.exp(-5 * (1 - time / length) ** 2)


def ramped(node: Node, share: float) -> float:
    """The weight in this round when it grows over a ``share`` of the run's rounds; a round is the papers' epoch.

    ONE, OKDDip and PCL grow it over 80 of 300 epochs; as a share of the run it also ends in shorter ones.
    """
    return sigmoid_ramp(node.round - 1, share * node.experiment.rounds)
