"""What a student learns from: logits or probabilities, and which of the two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

Kind = Literal["logits", "probabilities"]


@final
@dataclass(frozen=True)
class Target:
    """Values that say whether they are logits or probabilities, so that nobody takes one for the other.

    Logits leave the temperature to whoever softens them. Probabilities are softened already: they belong to the temperature
    that they were made at, and the student must be softened at the same.

    Args:
        values: (B, C), or (K, B, C) where each of K peers has a target of its own.
        kind: "logits" or "probabilities".

    Raises:
        ValueError: another kind.

    >>> Target(torch.tensor([[0.0, 2.0]]), "logits").probabilities(temperature=2.0)  # 1 / (1 + e) and e / (1 + e)
    tensor([[0.2689, 0.7311]])
    >>> Target(torch.tensor([[0.25, 0.75]]), "probabilities").logits(temperature=2.0)  # 2 log(1/4) and 2 log(3/4)
    tensor([[-2.7726, -0.5754]])
    """

    values: Tensor
    kind: Kind

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"Target: kind is 'logits' or 'probabilities', not {self.kind!r}")

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """``softmax(values / temperature)`` of logits; probabilities as they are, whatever the temperature.

        Returns:
            of the shape and type of values, rows that sum to one.
        """
        return (self.values / temperature).softmax(-1) if self.kind == "logits" else self.values

    def logits(self, temperature: float = 1.0) -> Tensor:
        """Logits as they are; of probabilities those that give them back: ``softmax(logits / temperature) == values``.

        That is ``temperature * log(values)``. A probability of 0 counts as the smallest normal number: all stays finite.

        Returns:
            of the shape and type of values.
        """
        if self.kind == "logits":
            return self.values
        return temperature * self.values.clamp_min(torch.finfo(self.values.dtype).tiny).log()
