"""The moving average of another module's weights, which teaches and is never trained."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from fedkd.nets.load import copied


def newest_share(step: Tensor, most: float) -> Tensor:
    """How much of the average is the newest weights after step t: 1 less the decay ``min(1 - 1/(t + 1), most)``.

    So long as 1/(t + 1) is the larger, the average is the plain mean; Tarvainen and Valpola 2017, arXiv 1703.01780.

    Args:
        step: () int64, t >= 0.
        most: the decay in the long run, 0..1.

    Returns:
        () float32, on the device of ``step``.

    >>> [round(newest_share(torch.tensor(t), 0.9).item(), 4) for t in (0, 1, 4, 99)]
    [1.0, 0.5, 0.2, 0.1]
    """
    return (1 / (step + 1.0)).clamp_min(1 - most)


@torch.no_grad()
def move_towards(average: nn.Module, net: nn.Module, share: float | Tensor) -> None:
    """``average <- (1 - share) average + share net``, of every parameter; buffers stay as they are.

    Args:
        average: what moves.
        net: a module with the same parameters in the same order.
        share: 0..1; a tensor () of it on the device makes nothing wait.
    """
    for own, other in zip(average.parameters(), net.parameters(), strict=True):
        own.lerp_(other, share.to(own.dtype) if isinstance(share, Tensor) else share)


@final
class MovingAverage(nn.Module):
    """The exponential moving average of another module's weights: a net that is never trained.

    After each step of the other's training ``average <- decay average + (1 - decay) weights``, as ``newest_share`` says, t
    counted from ``first``. Buffers are no part of the mean: BatchNorm's statistics are this net's own, gathered in its own
    passes in train mode.

    Args:
        net: the module that is followed; it is copied.
        most: the decay in the long run, 0..1.
        first: t of the first step. From 0 the average is a copy of the weights after it, and then their plain mean; from 1 what
            it starts from counts as one of them.
    """

    steps: Tensor  # () int64, how many steps it has followed

    def __init__(self, net: nn.Module, *, most: float, first: int) -> None:
        super().__init__()
        self.net = copied(net).requires_grad_(False)
        self.most, self.first = most, first
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # with the weights, to outlive a round

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> Tensor:
        """What the averaged net gives; no gradient."""
        output: Tensor = self.net(*inputs)
        return output

    @torch.no_grad()
    def follow(self, net: nn.Module) -> None:
        """Move towards the weights that ``net`` has after one more step."""
        move_towards(self.net, net, newest_share(self.first + self.steps, self.most))
        self.steps += 1
