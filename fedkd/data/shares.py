"""Each client's rows, all in one tensor: a hundred thousand tensors of some rows each would take longer to make than to use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class Shares:
    """Rows (T,) of all clients one after the other, and how many each has, (K,)."""

    rows: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> Shares:
        """Of each client's rows."""
        return cls(torch.cat([*parts]), torch.tensor([len(part) for part in parts]))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, client: int) -> Tensor:
        """The rows of one client: a view."""
        if not 0 <= client < len(self):
            raise IndexError(f"client {client} of {len(self)}")
        return self.rows[self._ends[client] - self._sizes[client] : self._ends[client]]

    def contents(self) -> Iterator[tuple[int, memoryview]]:
        """How many rows each client has, and their bytes: quicker than each one's tensor."""
        whole = self.rows.numpy().data.cast("B") if len(self.rows) else memoryview(b"")
        width = self.rows.itemsize
        for size, end in zip(self._sizes, self._ends, strict=True):
            yield size, whole[width * (end - size) : width * end]

    @cached_property
    def owners(self) -> Tensor:
        """Whose each row is, (T,)."""
        return torch.repeat_interleave(torch.arange(len(self)), self.sizes)

    def count(self, values: Tensor, kinds: int) -> Tensor:
        """How many rows of each client have each value. Values (T,) in 0..kinds-1 -> (K, kinds)."""
        found = torch.bincount(self.owners * kinds + values, minlength=len(self) * kinds)
        return found.view(len(self), kinds)

    @cached_property
    def _sizes(self) -> list[int]:
        sizes: list[int] = self.sizes.tolist()
        return sizes

    @cached_property
    def _ends(self) -> list[int]:
        ends: list[int] = self.sizes.cumsum(0).tolist()
        return ends
