"""How far to go along a step that leads down: backtracking until the function falls as it should. Armijo 1966."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def shortened(function: Callable[[Tensor], Tensor], x: Tensor, step: Tensor, slope: Tensor, length: Tensor) -> Tensor:
    """Lengths, halved until f(x + length * step) is below f(x) by a ten-thousandth of what the slope promises.

    Args:
        function: points (N, K) -> values (N, 1), of N problems at once, in float64.
        x: (N, K).
        step: (N, K).
        slope: (N, 1) of the function along the step, below 0.
        length: (N, 1) to begin with.

    Returns:
        (N, 1), at most the lengths given.

    >>> x, step = torch.tensor([[1.0]]).double(), torch.tensor([[-8.0]]).double()  # of x^2: to -7, to -3, to -1, to 0
    >>> shortened(torch.square, x, step, slope=2 * x * step, length=torch.ones(1, 1))
    tensor([[0.1250]])
    """
    before = function(x)
    rounding = 1e-14 * (1 + before.abs())  # at the minimum all that is left to gain is below it
    for _ in range(40):
        enough = function(x + length * step) <= before + 1e-4 * length * slope + rounding
        if bool(enough.all()):
            break
        length = torch.where(enough, length, length / 2)
    return length
