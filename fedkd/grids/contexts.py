"""The Contexts of a grid's clients: in memory those that were used last; the states of all others lie in a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol, cast, final

from flwr.app import Context, Message, RecordDict

from fedkd.grids.flower import PlainRecords, client_context, copy_records, plain_records

#: Bytes of states in memory, beside those of clients at work. Beyond, those that were not used for longest leave.
HELD_BYTES = 64 * 2**20
#: What a Context takes beside its arrays, about.
OBJECT_BYTES = 4096


class Store(Protocol):
    """Where states lie that are not in memory."""

    def load(self, client: int) -> RecordDict | None:
        """The state of a client that was saved last; None where it has none."""

    def save(self, states: Mapping[int, RecordDict]) -> None:
        """Write states, each in the place of the client's last one."""

    def clients(self) -> Iterable[int]:
        """Who has a state."""


@final
class Contexts:
    """Node id -> its Context, made when first asked for. Without a store all stay in memory.

    A client may hold on to its Context between the exchanges of a round, so what is asked for stays until ``end_round``, or
    until its client ``leave``s. ``on_leave`` hears who is in memory no more.
    """

    def __init__(self, nodes: int, run_config: Mapping[str, Any], on_leave: Callable[[int], None]) -> None:
        self._nodes, self._on_leave = nodes, on_leave
        # One for all, which none can change: copies take more room than all else of a client that keeps nothing.
        self._run_config = cast(dict[str, Any], MappingProxyType(dict(run_config)))
        self._store: Store | None = None
        self._held: dict[int, Context] = {}  # the one that was not used for longest first
        self._at_work: set[int] = set()
        self._seen: dict[int, PlainRecords] = {}  # each state as it was when it was looked at last
        self._changed: set[int] = set()  # what the store has not got
        self._bytes: dict[int, int] = {}
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[int]:
        return iter(self._held)

    def __getitem__(self, node: int) -> Context:
        context = self._held.pop(node, None)
        if context is None:
            state = self._store.load(node) if self._store else None
            context = client_context(node, self._nodes, self._run_config, state)
            self._note(node, plain_records(context.state))
        self._held[node] = context
        self._at_work.add(node)
        return context

    def keep_in(self, store: Store) -> None:
        """Let states leave memory for a store, which may hold some already."""
        self._store = store
        for node in [node for node, context in self._held.items() if node not in self._at_work and not context.state]:
            self._drop(node)

    def restore(self, states: Mapping[int, RecordDict]) -> None:
        """Go back to these states, with new Contexts; who is not named has none, unless a store has one."""
        self._store, self._held_bytes = None, 0
        for held in (self._held, self._at_work, self._seen, self._changed, self._bytes):
            held.clear()
        for node, state in states.items():
            self._held[node] = client_context(node, self._nodes, self._run_config, copy_records(state))
            self._look(node)

    def states(self) -> Iterator[tuple[int, RecordDict]]:
        """A copy of every state that is not empty, one at a time, in order of node id."""
        stored = self._store.clients() if self._store else ()
        for node in sorted({*self._held, *stored}):
            state = self._held[node].state if node in self._held else self._store and self._store.load(node)
            if state:
                yield node, copy_records(state)

    def leave(self, node: int, messages: Iterable[Message]) -> None:
        """A client has answered these. It holds on to its Context if it was to train and has not written its state yet."""
        trained = any(message.metadata.message_type.partition(".")[0] == "train" for message in messages)
        if node in self._held and (self._look(node) or not trained):
            self._at_work.discard(node)
            self._drop_if_empty(node)
            self._make_room()

    def take_changed(self) -> dict[int, RecordDict]:
        """The states that the store has not got, in order of node id: the caller puts them there."""
        for node in self._at_work:
            self._look(node)
        changed, self._changed = sorted(self._changed), set()
        return {node: self._held[node].state for node in changed}

    def end_round(self) -> None:
        """No client holds on to its Context any more; those that keep nothing leave."""
        done, self._at_work = self._at_work, set()
        for node in done:
            self._look(node)
            self._drop_if_empty(node)
        self._make_room()

    def _look(self, node: int) -> bool:
        """Whether a state has changed since it was looked at last."""
        now = plain_records(self._held[node].state)
        if now == self._seen.get(node, []):
            return False
        self._changed.add(node)
        self._note(node, now)
        return True

    def _note(self, node: int, state: PlainRecords) -> None:
        arrays = (array for _, kind, items in state if kind == 0 for array in items.values())
        size = OBJECT_BYTES + sum(len(data) for *_, data in arrays)
        self._held_bytes += size - self._bytes.get(node, 0)
        self._seen[node], self._bytes[node] = state, size

    def _make_room(self) -> None:
        """Where too much is held, a quarter of it leaves, in one go."""
        if self._store is None or self._held_bytes <= HELD_BYTES:
            return
        leaving, left = [], self._held_bytes
        for node in self._held:
            if left <= 0.75 * HELD_BYTES:
                break
            if node not in self._at_work:
                leaving.append(node)
                left -= self._bytes[node]
        self._store.save({node: self._held[node].state for node in leaving if node in self._changed})
        for node in leaving:
            self._drop(node)

    def _drop_if_empty(self, node: int) -> None:
        if self._store and not self._held[node].state:
            self._drop(node)

    def _drop(self, node: int) -> None:
        del self._held[node], self._seen[node]
        self._changed.discard(node)
        self._held_bytes -= self._bytes.pop(node)
        self._on_leave(node)
