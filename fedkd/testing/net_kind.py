"""A net that is checked: how it is made, and samples of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import nn

from fedkd.base.inputs import Inputs, Shape, describe
from fedkd.base.randomness import generator, seeded
from fedkd.nets import Net, build_net
from fedkd.testing.check import fail

#: Samples of a batch: enough for batch statistics, and rarely the number of classes.
SAMPLES = 6


@final
@dataclass(frozen=True)
class Kind:
    """A net that is checked: how it is made."""

    architecture: str | Callable[..., nn.Module]
    shape: Shape
    classes: int
    options: dict[str, Any] = field(default_factory=dict)
    vocabulary: int = 0

    def net(self, seed: int = 0, heads: tuple[str, ...] = ("classifier",)) -> Net:
        """One with the weights of this seed."""
        with seeded(seed):
            return build_net(
                self.architecture,
                shape=self.shape,
                classes=self.classes,
                heads=heads,
                options=self.options,
                vocabulary=self.vocabulary,
            )

    def inputs(self, count: int = SAMPLES) -> Inputs:
        """Samples as training sees them: real numbers of mean 0, or tokens with padding behind them."""
        rng = generator(0, "samples")
        if not self.vocabulary:
            shapes = self.shape if isinstance(self.shape, Mapping) else {"": self.shape}
            drawn = {name: torch.randn(count, *shape, generator=rng) for name, shape in shapes.items()}
            return drawn if isinstance(self.shape, Mapping) else drawn[""]
        length = next(iter(self.shape.values()))[0] if isinstance(self.shape, Mapping) else self.shape[0]
        ids = torch.randint(1, self.vocabulary, (count, length), generator=rng)
        there = torch.arange(length) < length - torch.arange(count).unsqueeze(1) % 3  # up to two of padding
        ids = ids.where(there, 0)
        if not isinstance(self.shape, Mapping):
            return ids
        named = {"input_ids": ids, "attention_mask": there.long()}
        return {name: named.get(name, torch.zeros_like(ids)) for name in self.shape}

    def __str__(self) -> str:
        said = f"{'tokens' if self.vocabulary else 'samples'} {describe(self.shape)}, {self.classes} classes"
        return said + (f", options {self.options}" if self.options else "")

    def fail(self, found: str, *, expected: str, look: str, setting: str = "") -> None:
        """Say what is wrong with the net."""
        fail(found, expected=expected, setting=f"{self}{f'; {setting}' if setting else ''}", look=look)
