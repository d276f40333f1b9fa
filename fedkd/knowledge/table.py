"""Table: rows of knowledge about samples, found by sample id and never by batch position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class Table:
    """What is known about some samples, e.g. the teachers' logits of this round's public samples.

    >>> table = Table(torch.tensor([30, 10]), torch.tensor([[3.0], [1.0]]))
    >>> table.rows(torch.tensor([10, 30, 10])).flatten().tolist()
    [1.0, 3.0, 1.0]
    """

    ids: Tensor  # (P,) int64, each once
    values: Tensor  # (P, D)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.values):
            raise ValueError(f"a table of {len(self.values)} rows cannot speak of {len(self.ids)} samples")
        ordered, order = self.ids.sort()
        if bool((ordered[1:] == ordered[:-1]).any()):
            raise ValueError("a sample stands twice in a table")
        object.__setattr__(self, "ids", ordered)
        object.__setattr__(self, "values", self.values[order])

    def rows(self, ids: Tensor) -> Tensor:
        """The rows (B, D) of these samples (B,). Raises KeyError naming a sample that the table does not have."""
        places = torch.searchsorted(self.ids, ids).clamp_max(len(self.ids) - 1)  # (B,)
        if not bool((self.ids[places] == ids).all()):
            missing = ids[self.ids[places] != ids]
            raise KeyError(f"the table has no row for sample {int(missing[0])}")
        return self.values[places]
