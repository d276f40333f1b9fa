"""What one forward pass of a net gives, from its last layer back to its first feature map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs


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


def called(module: nn.Module, inputs: Inputs) -> Any:
    """What a module gives of samples; several tensors are handed over by their names, as to a transformer."""
    return module(**inputs) if isinstance(inputs, Mapping) else module(inputs)


def features_of(outputs: Outputs) -> Tensor:
    """The features (B, D). Raises InputError where the net was asked for logits only."""
    if outputs.features is None:
        raise InputError("this loss reads features, and only logits are at hand here: choose a loss on logits, such as kd")
    return outputs.features


def logits_of(returned: Any, net: str) -> Tensor:
    """The logits in what a user's module returned: the one place that says how they are found.

    They are the tensor itself; or what stands as ``["logits"]`` or ``.logits`` (transformers); or the first of a tuple or list,
    which may have auxiliary outputs after it.

    >>> import torch
    >>> logits_of((torch.ones(2, 3), "auxiliary"), "mine").shape, logits_of({"logits": torch.ones(2, 3)}, "mine").shape
    (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    found = returned
    if isinstance(returned, Mapping):
        found = returned.get("logits")
    elif not isinstance(returned, Tensor) and hasattr(returned, "logits"):
        found = returned.logits
    elif isinstance(returned, tuple | list) and returned:
        found = returned[0]
    if not isinstance(found, Tensor):
        keys = f" of {', '.join(map(str, returned))}" if isinstance(returned, Mapping) else ""
        raise InputError(
            f"net {net!r} returns a {type(returned).__name__}{keys}, in which no logits are found: return a tensor (B, C), "
            'alone, as ["logits"], as .logits, or first in a tuple'
        )
    return found
