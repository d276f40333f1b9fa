"""Nets with branches: one trunk, and on its map several tails with a classifier each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from fedkd.base.inputs import Inputs
from fedkd.nets.halves import encoder_of
from fedkd.nets.net import Net, laid_out
from fedkd.nets.outputs import called
from fedkd.nets.zoo import ZOO, zoo_encoder


@final
@dataclass(frozen=True, eq=False)
class Branches:
    """What one pass through a ``Branched`` gives: m branches, B samples."""

    maps: tuple[Tensor, ...]  # the trunk's map, one for all branches, or one a view; (B, c, h, w), or (B, width) of an mlp
    features: Tensor  # (m, B, D)
    logits: Tensor  # (m, B, C)


@final
class Branched(nn.Module):
    """A shared trunk with m branches, cut from m nets: the trunk of the first, the tail and the classifier of each.

    Nets with fresh weights each give branches that start different, as they must: equal ones would stay equal.

    Args:
        nets: m nets of one architecture with the head "classifier"; their modules are used, not copied.
        split_scale: what the gradient that comes back from the branches is multiplied by before it enters the trunk.

    Raises:
        InputError: a net that gives logits only, or cannot be cut.

    >>> from fedkd.nets import build_net
    >>> net = Branched([build_net("mlp", shape=(1, 8, 8), classes=10) for _ in range(3)])
    >>> net(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([3, 5, 10])
    """

    def __init__(self, nets: Sequence[Net], *, split_scale: float = 1.0) -> None:
        super().__init__()
        halves = [encoder_of(net).cut() for net in nets]
        self.trunk = halves[0][0]
        self.tails = nn.ModuleList(tail for _, tail in halves)
        self.classifiers = nn.ModuleList(net.heads["classifier"] for net in nets)
        self.out_features = encoder_of(nets[0]).out_features
        self.memory_format = nets[0].memory_format
        self.split_scale = split_scale

    def outputs(self, *views: Inputs) -> Branches:
        """All that one pass gives. The trunk runs once a view, so that each is normalised by its own batch statistics.

        Args:
            views: samples (B, ...) each: one for all branches, or one for each of them.

        Raises:
            ValueError: another number of views.
        """
        if len(views) not in (1, len(self.tails)):
            raise ValueError(f"{len(views)} views of {len(self.tails)} branches: give one, or one for each")
        maps = tuple(self.map_of(view) for view in views)
        seen = [scale_gradient(held, self.split_scale) for held in maps] * (len(self.tails) // len(maps))
        features = torch.stack([tail(held) for tail, held in zip(self.tails, seen, strict=True)])  # (m, B, D)
        logits = torch.stack([head(own) for head, own in zip(self.classifiers, features, strict=True)])  # (m, B, C)
        return Branches(maps, features, logits)

    def map_of(self, inputs: Inputs) -> Tensor:
        """The trunk's map of samples (B, ...)."""
        held: Tensor = called(self.trunk, laid_out(inputs, self.memory_format))
        return held

    def forward(self, *views: Inputs) -> Tensor:
        """Logits (m, B, C) of samples (B, ...)."""
        return self.outputs(*views).logits


@final
class Gate(nn.Module):
    """How much each branch counts, told from the trunk's map: pooling, a linear layer, BatchNorm, ReLU, softmax.

    Lan et al. 2018, arXiv 1806.04606, and their code. The ReLU in front of the softmax lets no branch fall below the share of
    a gate at 0.

    Args:
        channels: c of the trunk's map.
        branches: m.
    """

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, branches)
        self.norm = nn.BatchNorm1d(branches)

    def forward(self, held: Tensor) -> Tensor:
        """Shares (B, m), rows that sum to 1, of a map (B, c, h, w) or (B, c)."""
        shares: Tensor = self.norm(self.linear(pooled(held)))  # (B, m)
        return shares.relu().softmax(1)


def pooled(held: Tensor) -> Tensor:
    """The mean over the places of a map (B, c, h, w) -> (B, c); what has no places stays as it is."""
    return held.flatten(2).mean(2) if held.dim() > 2 else held


def scale_gradient(tensor: Tensor, scale: float) -> Tensor:
    """The tensor itself, whose gradient on its way back is multiplied by ``scale``. Song and Chai 2018, arXiv 1805.11761.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> scale_gradient(weight, 0.25).sum().backward()
    >>> weight.grad
    tensor([0.2500, 0.2500])
    """
    if scale == 1:
        return tensor
    scaled: Tensor = _ScaledGradient.apply(tensor, scale)  # type: ignore[no-untyped-call]
    return scaled


def check_branches(name: str, options: Mapping[str, Any]) -> None:
    """InputError where a net of the zoo, by its name and options, cannot be cut; a user's is found out when it is built."""
    if name in ZOO:
        with torch.device("meta"):
            zoo_encoder(name, options).cut()


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None
