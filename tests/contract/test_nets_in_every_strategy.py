"""What a user decided about a net stands in every strategy: what is frozen, what is a mask, what is not saved, how it views."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any, Self

import pytest
import torch
import torch.nn.functional as F
from grids.forgetful import ForgetfulGrid
from test_every_strategy import NAMES, numbers, of_every_kind, small
from torch import Tensor, nn

from fedkd import Experiment, History, simulate
from fedkd.grids import JobGrid
from fedkd.nets import Encoder

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

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        assert images.is_contiguous() and self.convolution.weight.is_contiguous()
        assert torch.equal(self.convolution.weight.cpu(), FROZEN)
        assert not self.norm.training and torch.equal(self.norm.running_mean.cpu(), torch.zeros(4))  # type: ignore[union-attr]
        assert not any(parameter.requires_grad for parameter in self.parameters())
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
        if self.training:
            self.mean.mul_(0.5).add_(x.detach().mean((0, 2, 3), keepdim=True)[0], alpha=0.5)
        return x.relu() - self.mean + self.mask.exp()


class Last(nn.Module):
    """A convolution, pooling, and a flat view that only contiguous maps allow."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 8, 3, padding=1)

    def map_of(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.convolution(x), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.map_of(x).relu().view(len(x), -1)


class Decided(Encoder):
    """A frozen beginning, a buffer that is not saved, a mask, an end that views; it can be cut and has maps."""

    out_features = 32

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.frozen, self.centred, self.last = Frozen(), Centred(), Last()

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(images)[1]

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        first = self.frozen(images)
        second = self.last.map_of(self.centred(first))
        return (first, second), second.relu().view(len(second), -1)

    def cut(self) -> tuple[nn.Module, nn.Module]:
        return nn.Sequential(OrderedDict(frozen=self.frozen, centred=self.centred)), self.last


def decided(name: str, **changes: Any) -> Experiment:
    train = {"lr": 0.05, "batch_size": 32, "momentum": 0.9, "weight_decay": 0.01}
    settings = small(name, **{"nets": Decided, "net_options": {}, "train": train, "evaluate_every": 2, **changes})
    return settings.replace(data=settings.data.model_copy(update={"test_limit": 100}))


@cache
def finished(name: str) -> History:
    """The run in this process, made once for both tests of it."""
    return simulate(decided(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_frozen_parts_masks_and_views_stand(name: str) -> None:
    history = finished(name)
    assert [row["clients_failed"] for row in history.metrics] == [0, 0, 0], history.clients
    assert "evaluation_failures" not in history.metrics[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", of_every_kind())
def test_what_no_state_dict_holds_is_the_same_on_a_grid_that_forgets(name: str) -> None:
    assert numbers(simulate(decided(name), ForgetfulGrid())) == numbers(finished(name))


@pytest.mark.parametrize("name", ["local", "dml"])
def test_what_no_state_dict_holds_is_each_clients_own_on_every_grid(name: str, make_grid: Callable[[], JobGrid]) -> None:
    """A net that the client keeps goes on with its running mean; no client sees another's."""
    assert numbers(simulate(decided(name, rounds=1), make_grid())) == numbers(simulate(decided(name, rounds=1)))
