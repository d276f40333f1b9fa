"""A table by sample id in a node's memory: rows are replaced, new ones come among the others, and no tensor is written to."""

from __future__ import annotations

import pytest
import torch

from fedkd.knowledge.memory import Memory
from fedkd.methods.kept_table import KeptTable, ids_of, owner_of


def filled(memory: Memory) -> KeptTable:
    table = KeptTable(memory, "table")
    table.put(torch.tensor([8, 2]), rows=torch.tensor([[8.0, 8.0], [2.0, 2.0]]), when=torch.tensor([1, 1]))
    return table


def test_nothing_is_known_of_a_table_that_was_never_put_to() -> None:
    table = KeptTable(Memory(), "table")
    places, known = table.find(torch.tensor([3, 0]))
    assert len(table) == 0 and places.tolist() == [0, 0] and known.tolist() == [False, False]
    with pytest.raises(KeyError):
        table.column("rows")


def test_old_and_new_rows_may_come_at_once_and_lie_in_order() -> None:
    table = filled(Memory())
    table.put(torch.tensor([5, 8, 1]), rows=torch.tensor([[5.0, 5.0], [9.0, 9.0], [1.0, 1.0]]), when=torch.tensor([2, 2, 2]))
    assert table.ids.tolist() == [1, 2, 5, 8]
    assert table.column("rows")[:, 0].tolist() == [1.0, 2.0, 5.0, 9.0]
    assert table.column("when").tolist() == [2, 1, 2, 2]


def test_a_memory_that_was_copied_before_stays_as_it_was() -> None:
    memory = Memory()
    table = filled(memory)
    before, values = dict(memory), {name: tensor.clone() for name, tensor in memory.under("").items()}
    table.put(torch.tensor([2]), when=torch.tensor([7]))
    table.put(torch.tensor([3]), rows=torch.zeros(1, 2), when=torch.tensor([7]))
    assert all(torch.equal(before[name], value) for name, value in values.items())  # type: ignore[arg-type]
    assert table.column("when").tolist() == [7, 7, 1]


def test_two_tables_of_one_memory_are_apart_and_a_new_row_is_whole() -> None:
    memory = Memory()
    filled(memory)
    other = KeptTable(memory, "other")
    assert len(other) == 0
    other.put(torch.tensor([1]), words=torch.zeros(1, 4))
    with pytest.raises(ValueError, match="table 'table': a new row needs rows, when"):
        KeptTable(memory, "table").put(torch.tensor([2, 4]), when=torch.tensor([2, 2]))


def test_ids_of_clients_are_apart() -> None:
    ids = torch.cat([ids_of(client, 1000) for client in range(50)])
    assert len(ids.unique()) == 50_000 and bool((ids[1:] > ids[:-1]).all())
    assert owner_of(ids).unique().tolist() == list(range(50))
