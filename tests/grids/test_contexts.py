"""Which Contexts are in memory: those of clients at work, and of the others as many as there is room for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedkd.grids import contexts
from fedkd.grids.contexts import OBJECT_BYTES, Contexts
from fedkd.grids.flower import instruction

KILOBYTE = 1000


class Shelf:
    """A store that tells what was written."""

    def __init__(self) -> None:
        self.states: dict[int, RecordDict] = {}
        self.saved: list[list[int]] = []

    def load(self, client: int) -> RecordDict | None:
        return self.states.get(client)

    def save(self, states: Mapping[int, RecordDict]) -> None:
        self.states |= states
        self.saved.append(sorted(states))

    def clients(self) -> list[int]:
        return sorted(self.states)


def asked(kind: str) -> list[Message]:
    return [instruction(RecordDict(), kind, 0, "1", None)]


def write(held: Contexts, node: int, value: int = 0) -> None:
    """A client at work writes its state."""
    arrays = ArrayRecord({"w": Array(np.full(10 * KILOBYTE // 8, value))})
    held[node].state = RecordDict({"net": arrays})


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Contexts:
    """With room for four states of 10 kB."""
    monkeypatch.setattr(contexts, "HELD_BYTES", 4 * (10 * KILOBYTE + OBJECT_BYTES + 200))
    return Contexts(100, {"rounds": 3}, lambda node: None)


def test_all_clients_share_one_run_config_which_none_can_change(held: Contexts) -> None:
    assert held[1].run_config is held[2].run_config
    with pytest.raises(TypeError):
        held[1].run_config["rounds"] = 4


def test_without_a_store_all_stay(held: Contexts) -> None:
    for node in range(20):
        write(held, node)
        held.leave(node, asked("train"))
    held.end_round()
    assert len(held) == 20


def test_who_was_not_used_for_longest_leaves_and_comes_back_as_it_was(held: Contexts) -> None:
    held.keep_in(shelf := Shelf())
    for node in range(6):
        write(held, node, node)
        held.leave(node, asked("train"))
    assert shelf.saved == [[0, 1]]  # of the fifth a quarter has to go, in one write
    assert list(held) == [2, 3, 4, 5]
    assert held[0].state["net"]["w"].numpy()[0] == 0
    held.leave(0, asked("evaluate"))
    assert 0 in list(held) and [node for node, _ in held.states()] == list(range(6))
    assert sorted(held.take_changed()) == [4, 5] and shelf.saved[1:] == [[2, 3]]


def test_a_client_between_two_exchanges_keeps_its_context(held: Contexts) -> None:
    """It has trained and not written: it may hold nets live, and write them into this very Context later."""
    left: list[int] = []
    held._on_leave = left.append
    held.keep_in(Shelf())
    at_work = [held[node] for node in range(8)]
    for node in range(8):
        held.leave(node, asked("train"))
    for node in range(10, 20):
        write(held, node)
        held.leave(node, asked("train"))
    assert all(held[node] is context for node, context in enumerate(at_work)) and set(left) <= {*range(10, 20)}
    held.end_round()
    assert {*range(8)} <= set(left)  # who keeps nothing is in memory no more


def test_what_is_only_read_is_not_written_again(held: Contexts) -> None:
    shelf = Shelf()
    shelf.states = {node: RecordDict({"facts": ConfigRecord({"value": node})}) for node in range(50)}
    held.keep_in(shelf)
    for node in range(50):
        assert held[node].state["facts"]["value"] == node
        held.leave(node, asked("evaluate"))
    held[7].state["facts"]["value"] = 70  # in place, as any Flower app may
    held.leave(7, asked("train"))
    held.end_round()
    assert shelf.saved == [] or set().union(*shelf.saved) <= {7}
    assert {**held.take_changed(), 7: held[7].state}[7]["facts"]["value"] == 70
    assert len(held) < 50
