"""What the samples of a data set are: how they are checked, measured, and made ready for a net."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs

#: Rows that are measured at a time: a large set on disk is never in memory whole.
CHUNK = 4096


class Moments(NamedTuple):
    """What inputs are standardised by: (x - mean) / std, number for number along the axis that their kind names."""

    mean: Tensor  # (C,) of images, (F,) of vectors and signals, (0,) of what is not standardised
    std: Tensor  # likewise; 1 where all values are equal

    def to(self, device: torch.device) -> Moments:
        """The same on a device."""
        if self.mean.device == device:
            return self
        return Moments(self.mean.to(device), self.std.to(device))


#: Of what is not standardised.
NO_MOMENTS = Moments(torch.zeros(0), torch.ones(0))


class Kind(ABC):
    """A kind of sample. Subclass it for one of your own, and give an object of it to ``Source(kind=...)``."""

    name: ClassVar[str]
    """Its name in messages and run directories."""

    @abstractmethod
    def check(self, where: str, inputs: Inputs) -> None:
        """Raise an InputError that begins with ``where``, unless these are rows of this kind."""

    def measure(self, inputs: Inputs, rows: Tensor) -> Moments:
        """The moments of some rows. Default: none, so that nothing is standardised."""
        return NO_MOMENTS

    def scale(self, inputs: Inputs) -> Inputs:
        """Raw rows as the numbers that ``measure`` speaks of. Default: as they are."""
        return inputs

    def standardise(self, inputs: Inputs, moments: Moments) -> Inputs:
        """Scaled rows of mean 0 and standard deviation 1. Default: as they are."""
        return inputs

    def normalise(self, inputs: Inputs, moments: Moments) -> Inputs:
        """Raw rows (B, ...) as a net takes them."""
        return self.standardise(self.scale(inputs), moments)


def tensor_of(where: str, kind: str, inputs: Inputs) -> Tensor:
    """The one tensor that these inputs are; InputError for several."""
    if isinstance(inputs, Mapping):
        raise InputError(f"{where}: {kind} is one tensor, not {len(inputs)} by name ({', '.join(inputs)})")
    return inputs


def moments_of(chunks: Iterable[Tensor], width: int) -> Moments:
    """Mean and standard deviation (F,) of real numbers that come in pieces (n, F), in float64; std 1 where all are equal.

    NumPy sums on one thread: equal bits whatever the number of threads.
    """
    total, squares, seen, first = np.zeros(width), np.zeros(width), 0, np.zeros(width)
    for chunk in chunks:
        values = chunk.double().numpy()
        first = first if seen else values[0]
        values = values - first  # near zero, so that the squares lose no digits
        total, squares, seen = total + values.sum(0), squares + (values**2).sum(0), seen + len(values)
    mean = total / max(seen, 1)
    variance = np.maximum(squares / max(seen, 1) - mean**2, 0)
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return Moments(torch.from_numpy(mean + first).float(), torch.from_numpy(std).float())


def check_finite(where: str, inputs: Tensor, what: str) -> None:
    """InputError where a number (N, ..., F) is missing (NaN) or infinite: the first, by its row and its place."""
    for start in range(0, len(inputs), CHUNK):
        some = inputs[start : start + CHUNK]
        if bool((fine := some.isfinite()).all()):
            continue
        place = (~fine).nonzero()[0].tolist()
        cure = "fill missing values in, or drop those rows"
        raise InputError(f"{where}: {what} {place[-1]} of row {start + place[0]} is {some[tuple(place)].item()}: {cure}")
