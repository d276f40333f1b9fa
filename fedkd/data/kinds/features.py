"""Real numbers that have a meaning each: a vector of features, or a signal of several such values over time."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs
from fedkd.data.kinds.kind import CHUNK, Kind, Moments, Spread, check_finite, spread_of, tensor_of


class Features(Kind):
    """Real numbers (B, ..., F), standardised by feature, over all else. A subclass says what else there is."""

    axes: ClassVar[str]
    """The axes, in words."""
    dimensions: ClassVar[int]
    """How many."""

    def check(self, where: str, inputs: Inputs) -> None:
        """Floating, of this many axes, and finite."""
        values = tensor_of(where, f"a {self.name}", inputs)
        if values.dim() != self.dimensions or not values.is_floating_point():
            found = f"{values.dtype} {tuple(values.shape)}"
            raise InputError(f"{where}: a {self.name} holds real numbers {self.axes}, not {found}")
        check_finite(where, values, "feature")

    def measure(self, inputs: Inputs, rows: Tensor) -> Moments:
        """Of each feature."""
        return self.spread(inputs, rows).moments()

    def spread(self, inputs: Inputs, rows: Tensor) -> Spread:
        """Likewise."""
        assert isinstance(inputs, Tensor)
        chunks = (inputs[some].flatten(0, -2) for some in rows.split(CHUNK))
        return spread_of(chunks, inputs.shape[-1])._replace(rows=len(rows))

    def scale(self, inputs: Inputs) -> Inputs:
        """In float32."""
        assert isinstance(inputs, Tensor)
        return inputs.to(torch.float32)

    def standardise(self, inputs: Inputs, moments: Moments) -> Inputs:
        """By feature."""
        assert isinstance(inputs, Tensor)
        return (inputs - moments.mean) / moments.std if len(moments.mean) else inputs
