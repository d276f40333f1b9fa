"""A net with exits on its way: a classifier at each size of its feature maps, and the net itself as the last."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, starmap
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs
from fedkd.nets.encoder import Encoder
from fedkd.nets.net import Net
from fedkd.nets.outputs import features_of
from fedkd.nets.zoo import ZOO

NO_EXITS = "has no feature maps for exits, of several sizes: take a cnn or cnn1d of two convolutions, or a resnet18"


@final
@dataclass(frozen=True, eq=False)
class AtExits:
    """What one pass through a ``NetWithExits`` gives at its L exits, the shallowest first."""

    logits: Tensor  # (L, B, C)
    adapted: tuple[Tensor, ...]  # (B, D) each: what exits 2 to L - 1 make of their maps, to be compared with ``features``
    features: Tensor  # (B, D), the net's own


@final
class NetWithExits(nn.Module):
    """A net whose maps have an exit each: separable convolutions down to the net's last map, pooling, a classifier.

    There is an exit on the last map of each size but the net's last; that exit is the net. A resnet18 has 4, after each of its
    stages; a cnn as many as it has convolutions. Zhang et al. 2019, arXiv 1905.08094, and their later code.

    Args:
        net: with the head "classifier"; it is used, not copied.
        classes: C.
        example: a sample (1, ...), which tells the shapes of the maps.

    Raises:
        InputError: a net that gives logits only, or has no maps before its last.
    """

    def __init__(self, net: Net, classes: int, example: Inputs) -> None:
        super().__init__()
        with torch.no_grad():
            outputs = net.eval().outputs(example)  # one sample has no batch statistics, and none are to be kept
        sizes = [held.shape[2:] for held in outputs.maps]
        self.places = [place for place, (own, after) in enumerate(pairwise(sizes)) if own != after]
        if not self.places or outputs.features is None:
            raise InputError(f"net {net.architecture!r} {NO_EXITS}")
        channels = [outputs.maps[place].shape[1] for place in (*self.places, -1)]
        self.net = net.train()
        ways = [nn.Sequential(*starmap(_separable, pairwise(channels[place:]))) for place in range(len(self.places))]
        self.ways = nn.ModuleList(ways).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.classifiers = nn.ModuleList(nn.Linear(channels[-1], classes) for _ in ways)
        self.adapters = nn.ModuleList(nn.Linear(channels[-1], outputs.features.shape[1]) for _ in ways[1:])

    def outputs(self, inputs: Inputs) -> AtExits:
        """Logits and features at all exits, in one pass."""
        deepest = self.net.outputs(inputs)
        maps = [F.relu(deepest.maps[place]) for place in self.places]
        own = [way(held).mean(dim=(2, 3)) for way, held in zip(self.ways, maps, strict=True)]  # (B, c) each, L - 1 of them
        shallow = [classifier(pooled) for classifier, pooled in zip(self.classifiers, own, strict=True)]
        adapted = tuple(adapter(pooled) for adapter, pooled in zip(self.adapters, own[1:], strict=True))
        return AtExits(torch.stack([*shallow, deepest.logits]), adapted, features_of(deepest))

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits (L, B, C) of samples (B, ...), the net's own last."""
        return self.outputs(inputs).logits


def check_exits(name: str) -> None:
    """InputError where a net of the zoo, by its name, has no maps; a user's is found out when it is built."""
    if getattr(ZOO.get(name), "stages", None) is Encoder.stages:
        raise InputError(f"net {name!r} {NO_EXITS}")


def _separable(inputs: int, outputs: int) -> nn.Module:
    """Two depthwise separable convolutions, the first of stride 2: (B, inputs, h, w) -> (B, outputs, h/2, w/2), rounded up."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride=2, padding=1, groups=inputs, bias=False),
        nn.Conv2d(inputs, inputs, 1, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
