"""What an attacker is given in place of an upload's own table: the same, as a defence would have sent it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

#: No probability is taken to be smaller, whose logarithm is asked for: of tables that a net gave, and of coarser ones.
EXACT, COARSE = 1e-7, 1e-3

#: Probabilities (..., P, C) and a generator -> probabilities.
View = Callable[[Tensor, torch.Generator], Tensor]


def softened(probabilities: Tensor, temperature: float) -> Tensor:
    """As the softmax at a temperature would give them.

    >>> softened(torch.tensor([0.8, 0.2]), 2.0)
    tensor([0.6667, 0.3333])
    """
    return (probabilities.clamp(min=1e-12).log() / temperature).softmax(-1)


def rounded(probabilities: Tensor) -> Tensor:
    """To one decimal.

    >>> rounded(torch.tensor([0.78, 0.22])).tolist()
    [0.800000011920929, 0.20000000298023224]
    """
    return probabilities.round(decimals=1)


def noised(probabilities: Tensor, deviation: float, rng: torch.Generator) -> Tensor:
    """With Gaussian noise on every element."""
    return probabilities + deviation * torch.randn(probabilities.shape, generator=rng, dtype=probabilities.dtype)


def labels_only(probabilities: Tensor) -> Tensor:
    """One for the likeliest class, zero for all others."""
    return F.one_hot(probabilities.argmax(-1), probabilities.shape[-1]).to(probabilities.dtype)


#: By the name that a table of results has. Temperature loses nothing that an attacker cannot undo; with rounding it does.
VIEWS: Mapping[str, View] = MappingProxyType(
    {
        "temperature 4": lambda p, rng: softened(p, 4.0),
        "rounded to 0.1": lambda p, rng: rounded(p),
        "temperature 4, rounded to 0.1": lambda p, rng: rounded(softened(p, 4.0)),
        "noise 0.1": lambda p, rng: noised(p, 0.1, rng),
        "noise 0.5": lambda p, rng: noised(p, 0.5, rng),
        "labels only": lambda p, rng: labels_only(p),
    }
)


def as_logits(probabilities: Tensor, least: float) -> Tensor:
    """Logarithms, with a floor under them."""
    return probabilities.clamp(min=least).log()
