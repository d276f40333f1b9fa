"""Rows of a data set that may be larger than memory: read, hashed and compared piece by piece."""

from __future__ import annotations

import hashlib
import mmap
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.base.inputs import Inputs, count, each, rows

#: Rows that are in memory at a time.
CHUNK = 4096
#: An array -> a view of it.
Arrange = Callable[[NDArray[Any]], NDArray[Any]]


class Mapped(Tensor):
    """A tensor whose rows lie on disk: those that are asked for by index are read, and leave memory again."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # what is computed from it is a plain tensor

    @abstractmethod
    def part(self, chosen: Tensor) -> Tensor:
        """The rows in these places, still on disk where they can be."""


@final
class MappedArray(Mapped):
    """A tensor over a .npy file, of which only the rows that are asked for are read, and leave memory again.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "images.npy")
    >>> np.save(file, np.zeros((10, 1, 4, 4), np.uint8))
    >>> images = MappedArray.of(file)
    >>> images.shape, type(images[torch.tensor([3, 1])]).__name__
    (torch.Size([10, 1, 4, 4]), 'Tensor')
    """

    _path: Path
    _mapping: mmap.mmap
    _arrange: Arrange | None

    @classmethod
    def of(cls, path: str | Path, *, arrange: Arrange | None = None) -> MappedArray:
        """Over this file.

        Args:
            path: of the file.
            arrange: gives a view of the array with its axes in order, as ``fedkd.data.arrays.channels_first`` does.

        Raises:
            ValueError, OSError: the file holds no array of numbers.
        """
        array = np.load(path, mmap_mode="c")
        mapped = torch.from_numpy(arrange(array) if arrange else array).as_subclass(cls)
        mapped._path, mapped._mapping, mapped._arrange = Path(path), array._mmap, arrange
        return mapped

    def __getitem__(self, index: Any) -> Tensor:
        picked = super().__getitem__(index).clone(memory_format=torch.contiguous_format)
        self._mapping.madvise(mmap.MADV_DONTNEED)
        return picked

    def part(self, chosen: Tensor) -> Tensor:
        """A copy in memory: a tensor knows no rows here and there."""
        return self[chosen]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return partial(MappedArray.of, arrange=self._arrange), (self._path,)


def is_mapped(inputs: Inputs) -> bool:
    """Whether rows lie on disk."""
    return any(isinstance(tensor, Mapped) for tensor in (inputs.values() if isinstance(inputs, Mapping) else [inputs]))


def part_of(inputs: Inputs, chosen: Tensor) -> Inputs:
    """The samples at these places, on disk if they lie there and can stay."""
    return each(lambda tensor: tensor.part(chosen) if isinstance(tensor, Mapped) else tensor[chosen], inputs)


def hash_values(digest: hashlib.blake2b, inputs: Inputs, chosen: Tensor) -> None:
    """Add the values of some samples to a digest, in this order."""
    for some in chosen.split(CHUNK):
        picked = rows(inputs, some)
        for tensor in [picked[name] for name in sorted(picked)] if isinstance(picked, Mapping) else [picked]:
            digest.update(tensor.contiguous().numpy().data)


def hash_rows(digest: hashlib.blake2b, inputs: Inputs) -> None:
    """Add shapes, types and all values to a digest."""
    if isinstance(inputs, Mapping):
        for name in sorted(inputs):
            digest.update(repr(name).encode())
            hash_rows(digest, inputs[name])
        return
    digest.update(repr((tuple(inputs.shape), str(inputs.dtype))).encode())
    for start in range(0, len(inputs), CHUNK):
        digest.update(inputs[start : start + CHUNK].contiguous().numpy().data)


def row_hashes(inputs: Inputs) -> set[bytes]:
    """A hash of the content of each sample."""
    found: set[bytes] = set()
    for start in range(0, count(inputs), CHUNK):
        some = rows(inputs, slice(start, start + CHUNK))
        tensors = [some[name] for name in sorted(some)] if isinstance(some, Mapping) else [some]
        arrays = [tensor.flatten(1).contiguous().numpy() for tensor in tensors]
        for row in range(len(arrays[0])):
            digest = hashlib.blake2b(digest_size=16)
            for array in arrays:
                digest.update(array[row].data)
            found.add(digest.digest())
    return found
