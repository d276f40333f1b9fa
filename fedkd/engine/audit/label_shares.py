"""Which labels a client holds, told from what it says of public samples.

A net that saw much of a class says it often: the mean of its predictions over public samples leans towards its client's labels.
How far, an attacker learns from shadow clients whose labels it knows, by a linear regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: The ridge of the regression, beside S shadows.
RIDGE = 1e-3
#: No share is taken to be smaller, in divergences.
LEAST = 1e-3


@dataclass(frozen=True)
class Leakage:
    """How far an estimate of clients' label shares is from the truth, and guesses that need no upload; means over clients."""

    total_variation: float
    kl: float
    uniform_total_variation: float
    uniform_kl: float
    prior_total_variation: float  # of the guess that every client holds what all hold together
    prior_kl: float
    clients: int

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))


def leakage(predictions: Tensor, truth: Tensor, shadow_predictions: Tensor, shadow_truth: Tensor, prior: Tensor) -> Leakage:
    """Estimate and compare.

    Args:
        predictions: (T, P, C) probabilities that the attacked clients gave.
        truth: (T, C) their label shares.
        shadow_predictions: (S, P, C) those of the shadows.
        shadow_truth: (S, C) theirs.
        prior: (C,) the label shares of everybody's samples.
    """
    guessed = estimate(predictions.mean(1), shadow_predictions.mean(1), shadow_truth)
    uniform = torch.full_like(truth, 1 / truth.shape[1])
    return Leakage(
        *_distances(truth, guessed), *_distances(truth, uniform), *_distances(truth, prior.expand_as(truth)), len(truth)
    )


def estimate(means: Tensor, shadow_means: Tensor, shadow_truth: Tensor) -> Tensor:
    """Label shares (T, C) by a linear regression of shadows' shares (S, C) on their mean predictions (S, C)."""
    centre, level = shadow_means.mean(0), shadow_truth.mean(0)
    features, wanted = shadow_means - centre, shadow_truth - level
    ridge = RIDGE * torch.eye(features.shape[1], dtype=features.dtype)
    slope: Tensor = torch.linalg.solve(features.T @ features + ridge, features.T @ wanted)  # (C, C)
    guess: Tensor = (level + (means - centre) @ slope).clamp(min=0)
    return guess / guess.sum(1, keepdim=True)


def total_variation(truth: Tensor, guess: Tensor) -> Tensor:
    """Half the sum of the differences, a row (T,).

    >>> total_variation(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])).tolist()
    [0.5]
    """
    return (truth - guess).abs().sum(1) / 2


def kl(truth: Tensor, guess: Tensor) -> Tensor:
    """KL(truth || guess) in nats, a row (T,); shares of the guess are at least ``LEAST``.

    >>> kl(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]))
    tensor([0.6931])
    """
    floored = guess.clamp(min=LEAST)
    floored = floored / floored.sum(1, keepdim=True)
    return torch.where(truth > 0, truth * (truth.clamp(min=1e-12) / floored).log(), 0.0).sum(1)


def _distances(truth: Tensor, guess: Tensor) -> tuple[float, float]:
    return total_variation(truth, guess).mean().item(), kl(truth, guess).mean().item()
