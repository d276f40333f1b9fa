"""The quantiser Q_b of CFD: Sattler et al. 2022, arXiv 2012.00632. Entries become multiples of 1 / (2^b - 1)."""

from __future__ import annotations

import torch
from torch import Tensor

#: How far the sum of a row may be from one: bfloat16 has two digits.
TOLERANCE = 1e-2


def quantise(probabilities: Tensor, bits: int) -> Tensor:
    """The nearest distribution on the grid, row by row::

        Q_b(p) = argmin || q - p ||_1  over q with entries in {0, 1 / (2^b - 1), ..., 1} that sum to one

    by rounding down and giving what is missing to the largest remainders, of equal ones to the lowest class. Q_1 is the one-hot
    argmax. A row of zeros (a class without samples in a label-wise table) stays a row of zeros.

    Args:
        probabilities: (..., C) floating; rows sum to one or are all zero.
        bits: b, 1 to 16.

    Returns:
        (..., C) of the same dtype.

    Raises:
        ValueError: a row is no distribution, or b is out of range.

    >>> [round(3 * x) for x in quantise(torch.tensor([0.5, 0.3, 0.2]), 2).tolist()]  # 1.5, 0.9 and 0.6 thirds
    [1, 1, 1]
    """
    return on_grid(levels(probabilities, bits), bits, probabilities.dtype)


def levels(probabilities: Tensor, bits: int) -> Tensor:
    """``quantise`` in whole steps of the grid: (..., C) int32; rows sum to 2^b - 1 or are all zero."""
    if not 1 <= bits <= 16:
        raise ValueError(f"quantise: bits must be 1 to 16, got {bits}")
    steps, exact = 2**bits - 1, probabilities.double()
    sums = exact.sum(-1, keepdim=True)  # (..., 1)
    if not ((exact >= 0).all() and ((sums == 0) | ((sums - 1).abs() <= TOLERANCE)).all()):
        raise ValueError("quantise: a row is neither a distribution nor all zero")
    scaled = exact / torch.where(sums > 0, sums, 1.0) * steps
    floors = scaled.floor()
    missing = steps * (sums > 0) - floors.sum(-1, keepdim=True)  # (..., 1): so many classes get one step more
    order = (scaled - floors).argsort(dim=-1, descending=True, stable=True)
    ranks = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order))
    rounded: Tensor = (floors + (ranks < missing)).int()
    return rounded


def on_grid(levels: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Whole steps -> probabilities of this dtype."""
    probabilities: Tensor = (levels.double() / (2**bits - 1)).to(dtype)
    return probabilities
