"""Generations that teach: what a born-again net descends, given what the last net of the one before says of its batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses import soft_cross_entropy
from fedkd.losses.precision import at_least_float32


def confidence_shares(teacher: Tensor) -> Tensor:
    """How much each sample counts by its teacher's confidence: the largest probability over the batch's sum of these.

    Args:
        teacher: (B, C) logits.

    Returns:
        (B,) float32 or better, sums to one.

    >>> confidence_shares(torch.tensor([[0.0, 0.0], [0.0, 3.0]]).log1p())  # 1/2 and 4/5 of 13/10
    tensor([0.3846, 0.6154])
    """
    largest = at_least_float32(teacher).softmax(1).amax(1)  # (B,)
    return largest / largest.sum()


def shuffle_others(probabilities: Tensor, rng: torch.Generator) -> Tensor:
    """Each row's largest probability where it was, the others shuffled among the other classes; a shuffle a row.

    Args:
        probabilities: (B, C).
        rng: a CPU generator.
    """
    B, C = probabilities.shape
    others = ~F.one_hot(probabilities.argmax(1), C).bool()  # (B, C), C - 1 of them a row
    order = torch.rand(B, C - 1, generator=rng).argsort(1).to(probabilities.device)
    shuffled = probabilities[others].view(B, C - 1).gather(1, order)
    return probabilities.masked_scatter(others, shuffled)


def _ban(logits: Tensor, teacher: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
    return soft_cross_entropy(logits, at_least_float32(teacher).softmax(1))


def _cwtm(logits: Tensor, teacher: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
    return confidence_shares(teacher) @ F.cross_entropy(at_least_float32(logits), labels, reduction="none")


def _dkpp(logits: Tensor, teacher: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
    return soft_cross_entropy(logits, shuffle_others(at_least_float32(teacher).softmax(1), rng))


#: What a generation descends: of its logits (B, C), the last one's (B, C), labels (B,) and a generator.
BORN_AGAIN: dict[str, Callable[[Tensor, Tensor, Tensor, torch.Generator], Tensor]] = {
    "ban": _ban,
    "cwtm": _cwtm,
    "dkpp": _dkpp,
}
