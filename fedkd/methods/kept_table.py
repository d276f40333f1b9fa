"""A table by sample id that a server, or a client, keeps from round to round: what was last said about each sample."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from fedkd.knowledge.memory import Memory


@final
class KeptTable:
    """Rows about samples, each under its sample's id, in a node's memory: columns of any width and type, by name.

    Ids are whatever tells samples apart: those of public samples, or ``ids_of`` for samples that one client alone has. A row
    that is put replaces the one before, so what is put twice, or comes late, does no harm. Nothing in memory is written to: a
    column is replaced whole, and a memory that was copied before stays as it was.

    >>> table = KeptTable(Memory(), "answers")
    >>> table.put(torch.tensor([7, 3]), logits=torch.tensor([[7.0], [3.0]]), round=torch.tensor([1, 1]))
    >>> table.put(torch.tensor([3]), round=torch.tensor([2]))
    >>> table.ids.tolist(), table.column("logits").flatten().tolist(), table.column("round").tolist()
    ([3, 7], [3.0, 7.0], [2, 1])
    >>> [found.tolist() for found in table.find(torch.tensor([7, 5]))]
    [[1, 1], [True, False]]
    """

    def __init__(self, memory: Memory, name: str) -> None:
        self._memory, self._name = memory, name

    def __len__(self) -> int:
        """How many samples have a row."""
        return len(self.ids)

    @property
    def ids(self) -> Tensor:
        """The samples that have a row, ascending. (M,) int64"""
        return self.column("id") if f"{self._name}/id" in self._memory else torch.zeros(0, dtype=torch.int64)

    def column(self, name: str) -> Tensor:
        """(M, ...), in the order of ``ids``. KeyError where nothing was put."""
        return self._memory.tensor(f"{self._name}/{name}")

    def find(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """At which place each of these samples has its row, and whether it has one: else the place says nothing. (B,) each"""
        places = torch.searchsorted(self.ids, ids).clamp_max(max(len(self) - 1, 0))
        known = self.ids[places] == ids if len(self) else torch.zeros(len(ids), dtype=torch.bool)
        return places, known

    def put(self, ids: Tensor, **columns: Tensor) -> None:
        """Put rows of these samples, each of them once: of those that have a row already any columns, of others all.

        Args:
            ids: (B,) int64.
            columns: (B, ...) each.

        Raises:
            ValueError: a sample has no row yet, and not all columns are given.
        """
        places, known = self.find(ids)
        held = self._memory.under(f"{self._name}/")
        if not bool(known.all()):
            if held.keys() - {"id"} - columns.keys():
                raise ValueError(f"table {self._name!r}: a new row needs {', '.join(sorted(held.keys() - {'id'}))}")
            columns = {"id": ids, **columns}
            if held:
                stays = torch.isin(held["id"], ids, invert=True)  # (M,)
                columns = {name: torch.cat([held[name][stays], values]) for name, values in columns.items()}
            order = columns["id"].argsort()
            self._memory.store(f"{self._name}/", {name: values[order] for name, values in columns.items()})
            return
        for name, values in columns.items():
            self._memory[f"{self._name}/{name}"] = held[name].index_copy(0, places, values)


def ids_of(client: int, samples: int) -> Tensor:
    """Ids for a client's own samples, by their places in its split: no other client has one of them. (samples,) int64

    >>> (ids_of(1, 2) - ids_of(1, 1)).tolist(), owner_of(ids_of(3, 2)).tolist()
    ([0, 1], [3, 3])
    """
    return (client << 32) + torch.arange(samples)


def owner_of(ids: Tensor) -> Tensor:
    """The client whose samples these are."""
    return ids >> 32
