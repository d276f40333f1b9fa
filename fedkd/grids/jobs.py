"""A Flower Grid written once, in terms of one thing: run these messages' clients and yield the replies."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, Self

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedkd.base.errors import InputError
from fedkd.grids.contexts import Contexts, Store
from fedkd.grids.flower import (
    ErrorCode,
    Run,
    copy_message,
    error_reply,
    instruction,
    new_run,
    with_new_id,
)


class JobGrid(Grid):
    """A grid of simulated nodes 0 to N-1, of which node ``i`` has ``{"partition-id": i, "num-partitions": N}``
    and ``"simulated": True``.

    A subclass says where clients run: it implements `run_jobs`, takes a client's Context (or its state) from `context`,
    and leaves the new state there. Between `open` and `close` a grid is bound to one app; after that it may be opened
    again. Messages and replies are copies: they share the bytes of arrays, which nobody can change, and nothing else.
    Replies come in the order of their messages, whoever was first, so that sums over them do not depend on timing.
    """

    keeps_contexts: ClassVar[bool] = True
    """Whether a client is handed the very same Context object as long as its process lives."""
    on_this_machine = True
    """Whether all clients are at work on the machine that the grid is on."""
    cpu_seconds = 0.0
    """What processes that the grid has started have computed so far, user and system, beside this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Flower's compatibility mode pushes and pulls from many threads
        self._client_app: ClientApp | None = None
        self._nodes = 0
        self._run_config: dict[str, Any] = {}
        self._on_reply: Callable[[int], None] = _ignore
        self._run = new_run(self._run_config)
        self._forget_all()

    def _forget_all(self) -> None:
        self._contexts = Contexts(self._nodes, self._run_config, self._left)
        self._pushed: dict[str, Message] = {}
        self._replies: dict[str, Message] = {}

    @abstractmethod
    def run_jobs(self, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
        """Run the client of each message; yield the replies, as copies, in any order.

        Messages to one node run in their order. A client that takes more than ``timeout`` seconds of its own over a
        message is left out; how long it waited for its turn does not count. What it raises becomes an error reply.
        """

    # ---- what the grid is bound to

    def begin(self, imports: Sequence[str] = ()) -> Self:
        """Start what an app runs on, before there is one: processes, which import these modules. `close` ends it.

        A grid without processes of its own has nothing to start.
        """
        return self

    def open(self, client_app: ClientApp, num_supernodes: int, run_config: Mapping[str, Any] | None = None) -> Self:
        """Bind the grid to an app: ``with grid.open(...):``. Raises InputError on a count of nodes below 1."""
        if num_supernodes < 1:
            raise InputError(f"num_supernodes is {num_supernodes}: a grid needs at least 1 node")
        if self._client_app is not None:
            raise InputError(f"this {type(self).__name__} runs another app already: close it, or make a second one")
        self._client_app, self._nodes, self._run_config = client_app, num_supernodes, dict(run_config or {})
        self._run = new_run(self._run_config)
        self._forget_all()
        return self

    def close(self) -> None:
        """Unbind the grid and forget all clients."""
        self._client_app = None
        self._forget_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def client_app(self) -> ClientApp:
        """The app of the clients. Raises RuntimeError when the grid is not open."""
        if self._client_app is None:
            raise RuntimeError(f"this {type(self).__name__} is closed: pass it to run_app, or open it")
        return self._client_app

    def one_of_each_process(self) -> list[int]:
        """Nodes that run in different processes, so that each of these has worked for one of them."""
        return [0]

    def who_joins(self) -> list[int]:
        """Nodes that know what all others know: one of each process, which hold the same data. All nodes, where somebody else
        makes their Contexts, as a node's config may say where data of its own are.
        """
        made_here = getattr(self.context, "__func__", None) is JobGrid.context
        return self.one_of_each_process() if made_here else list(range(self._nodes))

    # ---- memories of clients

    def context(self, node_id: int) -> Context:
        """The Context of a client, made when first asked for; its ``state`` is the truth about that client's memory."""
        return self._contexts[node_id]

    def states(self) -> dict[int, RecordDict]:
        """A copy of every client state that is not empty, by node id."""
        return dict(self.each_state())

    def each_state(self) -> Iterator[tuple[int, RecordDict]]:
        """The same one at a time, in order of node id: all together they may be larger than memory."""
        return self._contexts.states()

    def restore(self, states: Mapping[int, RecordDict]) -> None:
        """Go back to these client states, with a new Context for everyone; clients that are not named start afresh."""
        self._contexts.restore(states)

    def keep_in(self, store: Store) -> None:
        """Let states of clients that are not at work leave memory for this store, until the grid is closed."""
        self._contexts.keep_in(store)

    def take_changed(self) -> dict[int, RecordDict]:
        """The states that have changed since they were last taken, or saved in the store: the caller saves them there."""
        return self._contexts.take_changed()

    def end_round(self) -> None:
        """No client has anything live between the rounds: whose Context is in memory is a question of room."""
        self._contexts.end_round()

    def _left(self, node_id: int) -> None:
        """A client's Context is in memory no more."""

    def summary(self) -> dict[str, float]:
        """What the grid has to say in a round's row of how it ran the clients since it was asked last. Default: nothing."""
        return {}

    @contextmanager
    def telling(self, on_reply: Callable[[int], None]) -> Iterator[None]:
        """In this block ``on_reply`` hears of each reply, how many there are of those that were asked together."""
        self._on_reply = on_reply
        try:
            yield
        finally:
            self._on_reply = _ignore

    # ---- Flower's Grid

    def set_run(self, run: Run) -> None:
        """Replace the description of the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The description of the run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to one node."""
        return instruction(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """0 to N-1."""
        return list(range(self._nodes))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; their clients run at the next `pull_messages`. Returns the messages' ids."""
        accepted = [with_new_id(copy_message(message)) for message in messages]
        ids = [message.metadata.message_id for message in accepted]
        with self._lock:
            self._pushed.update(zip(ids, accepted, strict=True))
        return ids

    def pull_messages(  # type: ignore[override]  # Flower 1.41 and 1.42 have message_ids alone, 1.43 has both
        self, reply_to_message_ids: Iterable[str] | None = None, *, message_ids: Iterable[str] | None = None
    ) -> Iterable[Message]:
        """Run all that was pushed; return the replies to these messages, or to all, each once."""
        with self._lock:
            pushed, self._pushed = list(self._pushed.values()), {}
            self._replies.update(self._answer(pushed, None))
            named = next((list(ids) for ids in (reply_to_message_ids, message_ids) if ids is not None), list(self._replies))
            return [self._replies.pop(name) for name in named if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run the messages' clients; the replies, in the order of the messages.

        A client is late, and left out, if it alone took more than ``timeout`` seconds: that others were at work before
        it is the simulation's doing, not its own. With 0 nobody is asked.
        """
        if timeout is not None and timeout <= 0:
            return []
        accepted = [with_new_id(copy_message(message)) for message in messages]
        with self._lock:
            replies = self._answer(accepted, timeout)
        ids = (message.metadata.message_id for message in accepted)
        return [replies[name] for name in ids if name in replies]

    def _answer(self, messages: Sequence[Message], timeout: float | None) -> dict[str, Message]:
        """Replies by the id of their message."""
        replies: dict[str, Message] = {}
        deliverable = []
        for message in messages:
            if 0 <= (node := message.metadata.dst_node_id) < self._nodes:
                deliverable.append(message)
            else:
                reason = f"node {node} does not exist: the nodes are 0 to {self._nodes - 1}"
                reply = error_reply(message, ErrorCode.NODE_UNAVAILABLE, reason)
                replies[message.metadata.message_id] = with_new_id(reply)
        for reply in self.run_jobs(deliverable, timeout) if deliverable else ():
            replies[reply.metadata.reply_to_message_id] = with_new_id(reply)
            self._on_reply(len(replies))
        return replies


def _ignore(replies: int) -> None:
    """Nobody looks."""
