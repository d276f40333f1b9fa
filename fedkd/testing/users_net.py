"""A net in which a user decided much: what is frozen, what is a mask, what is not saved, how it views."""

from __future__ import annotations

from collections import OrderedDict
from typing import Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.nets import Encoder
from fedkd.testing.check import Broken

FROZEN = torch.linspace(-0.3, 0.4, 36).view(4, 1, 3, 3)


class Frozen(nn.Module):
    """A convolution and a BatchNorm that never change: it fails where it was thawed, moved, or put in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        with torch.no_grad():
            self.convolution.weight.copy_(FROZEN)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Never in train mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 4, H/2, W/2)."""
        weight, mean = self.convolution.weight, self.norm.running_mean
        _hold(images.is_contiguous() and weight.is_contiguous(), "images and weights are laid out as the net has them")
        _hold(torch.equal(weight.cpu(), FROZEN), "frozen weights stay as they are")
        unmoved = mean is not None and torch.equal(mean.cpu(), torch.zeros(4))
        _hold(not self.norm.training and unmoved, "a frozen BatchNorm stays in eval mode, and its mean where it was")
        _hold(not any(p.requires_grad for p in self.parameters()), "frozen parameters need no gradient")
        return F.max_pool2d(self.norm(self.convolution(images)), 2)


class Centred(nn.Module):
    """Takes away a running mean that its state dict lacks, and adds nothing through a mask of minus infinities."""

    mean: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4, 1, 1), persistent=False)
        self.register_buffer("mask", torch.full((4, 1, 1), -torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, H, W), the same."""
        if self.training:
            self.mean.mul_(0.5).add_(x.detach().mean((0, 2, 3), keepdim=True)[0], alpha=0.5)
        return x.relu() - self.mean + self.mask.exp()


class Last(nn.Module):
    """A convolution, pooling, and a flat view that only contiguous maps allow."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 8, 3, padding=1)

    def map_of(self, x: Tensor) -> Tensor:
        """Before the ReLU: (B, 4, H, W) -> (B, 8, H/2, W/2)."""
        return F.max_pool2d(self.convolution(x), 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, H, W) -> (B, D)."""
        return self.map_of(x).relu().view(len(x), -1)


@final
class Decided(Encoder):
    """A frozen beginning, a buffer that is not saved, a mask, an end that views; it can be cut and has maps.

    Args:
        shape: (C, H, W) of an image; one channel.
        classes: how many; the head is not its own.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.frozen, self.centred, self.last = Frozen(), Centred(), Last()
        self.out_features = 8 * (shape[1] // 4) * (shape[2] // 4)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D) of images (B, 1, H, W)."""
        return self.stages(images)[1]

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Both feature maps, before their ReLU, and the features."""
        first = self.frozen(images)
        second = self.last.map_of(self.centred(first))
        return (first, second), second.relu().view(len(second), -1)

    def in_parts(self) -> tuple[nn.Module, ...]:
        """All but the last convolution, and it."""
        return nn.Sequential(OrderedDict(frozen=self.frozen, centred=self.centred)), self.last


def _hold(kept: bool, promise: str) -> None:
    if not kept:
        raise Broken(f"of a user's own net, {promise}: take the net of client.net() as it is")
