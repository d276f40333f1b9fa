"""A multi-layer perceptron."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.base.inputs import Shape
from fedkd.nets.encoder import Encoder
from fedkd.nets.options import check_tuple


class MLP(Encoder):
    """Fully connected layers, each with a ReLU; the last one's output is the feature.

    The default is the "2NN" of FedAvg, arXiv 1602.05629. Without hidden layers the feature is the sample itself, and
    a classifier on it is softmax regression.
    """

    one_part: ClassVar[str] = "net 'mlp' with fewer than two hidden layers has no trunk to share: give hidden two widths"
    samples: ClassVar[str] = "real numbers of any shape: images, vectors or signals"
    example_shape: ClassVar[tuple[int, ...]] = (8,)

    def __init__(self, shape: tuple[int, ...], *, hidden: tuple[int, ...] = (200, 200)) -> None:
        super().__init__()
        check_tuple("mlp", "hidden", hidden)
        widths = (math.prod(shape), *hidden)
        self.layers = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        self.out_features = widths[-1]

    @classmethod
    def takes(cls, shape: Shape, vocabulary: int = 0) -> bool:
        """Any shape, but no tokens."""
        return not vocabulary and not isinstance(shape, Mapping)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (B, D) of samples (B, ...)."""
        x = inputs.flatten(1)  # (B, all numbers of a sample)
        for layer in self.layers:
            x = F.relu(layer(x))
        return x

    def in_parts(self) -> tuple[nn.Module, ...]:
        """Each layer, giving (B, width)."""
        first, *rest = (nn.Sequential(layer, nn.ReLU()) for layer in self.layers) if self.layers else (nn.Identity(),)
        return nn.Sequential(nn.Flatten(), first), *rest
