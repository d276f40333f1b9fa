"""What one forward pass of a net gives, from its last layer back to its first feature map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch.nn.functional as F
from torch import Tensor

from fedkd.errors import InputError


@final
@dataclass(frozen=True, eq=False)
class Outputs:
    """Logits, the features they are made of, and the feature maps on the way there.

    Maps are taken before the ReLU that ends their stage, which losses on signs and margins need; ``activated`` has them after
    it. A net without convolutions has no maps, and where only logits were asked for there is nothing else.
    """

    logits: Tensor  # (B, C)
    features: Tensor | None = None  # (B, D)
    maps: tuple[Tensor, ...] = ()  # (B, c, h, w) each, from the first stage to the last

    @cached_property
    def activated(self) -> tuple[Tensor, ...]:
        """The maps after their ReLU."""
        return tuple(F.relu(held) for held in self.maps)


def features_of(outputs: Outputs) -> Tensor:
    """The features (B, D). Raises InputError where the net was asked for logits only."""
    if outputs.features is None:
        raise InputError("this loss reads features, and only logits are at hand here: choose a loss on logits, such as kd")
    return outputs.features
