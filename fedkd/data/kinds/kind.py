"""What the samples of a data set are: how they are checked, measured, and made ready for a net."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
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


class Spread(NamedTuple):
    """How the numbers of some rows spread, in float64: what moments are made of, and what rows of several places add up to."""

    rows: int
    mean: Tensor  # like those of Moments
    variance: Tensor  # likewise; 0 where all values are equal

    def moments(self) -> Moments:
        """What to standardise by."""
        std = torch.where(self.variance > 0, self.variance.sqrt(), 1.0)
        return Moments(self.mean.float(), std.float())


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

    def spread(self, inputs: Inputs, rows: Tensor) -> Spread:
        """The same before rounding, so that those of several places can be put together. Default: as ``measure`` has it."""
        mean, std = self.measure(inputs, rows)
        return Spread(len(rows), mean.double(), std.double() ** 2 if len(mean) else mean.double())

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


def spread_of(chunks: Iterable[Tensor], width: int) -> Spread:
    """How real numbers (n, F) that come in pieces spread.

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
    return Spread(seen, torch.from_numpy(mean + first), torch.from_numpy(variance))


def pooled(parts: Sequence[Spread]) -> Spread:
    """The spread of all rows together, of that of each part.

    >>> parts = [Spread(1, torch.tensor([0.0]), torch.tensor([0.0])), Spread(3, torch.tensor([4.0]), torch.tensor([0.0]))]
    >>> pooled(parts).mean.item(), pooled(parts).variance.item()
    (3.0, 3.0)
    """
    rows = sum(part.rows for part in parts)
    shares = [part.rows / max(rows, 1) for part in parts]
    mean = torch.stack([share * part.mean for share, part in zip(shares, parts, strict=True)]).sum(0)
    within = [share * (part.variance + (part.mean - mean) ** 2) for share, part in zip(shares, parts, strict=True)]
    return Spread(rows, mean, torch.stack(within).sum(0))


def check_finite(where: str, inputs: Tensor, what: str) -> None:
    """InputError where a number (N, ..., F) is missing (NaN) or infinite: the first, by its row and its place."""
    for start in range(0, len(inputs), CHUNK):
        some = inputs[start : start + CHUNK]
        if bool((fine := some.isfinite()).all()):
            continue
        place = (~fine).nonzero()[0].tolist()
        cure = "fill missing values in, or drop those rows"
        raise InputError(f"{where}: {what} {place[-1]} of row {start + place[0]} is {some[tuple(place)].item()}: {cure}")
