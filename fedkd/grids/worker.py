"""The far end of a RayGrid: a process that keeps Contexts and runs clients; and what travels to it and back."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedkd.base.compiler import leave_compiler_out, load_compiler_where_time_is_short
from fedkd.base.garbage import collector_away
from fedkd.grids.client_call import run_client
from fedkd.grids.flower import (
    PlainMessage,
    PlainRecords,
    array_bytes,
    client_context,
    message_from_plain,
    plain_records,
    records_from_plain,
)

LARGE = 4096  # bytes from which it is looked whether several messages hold an array
WHOLE = 32_768  # bytes from which an array travels as a buffer of its own: Ray copies it less, but pickles what holds it
WORTH_SHARING = 65_536  # bytes in all messages together: sharing costs a call of 2 ms to each worker


class Task(NamedTuple):
    """Messages to one node, taken apart. It travels as a list, which Ray need not pickle."""

    node_id: int
    state: PlainRecords | None  # None: go on with the Context that the worker has
    messages: list[PlainMessage]


class Answer(NamedTuple):
    """What became of a task. It travels as a list too."""

    replies: list[PlainMessage]
    state: PlainRecords | None  # None: as it was
    seconds: float
    cpu_seconds: float  # of the whole process since its last answer


def is_large(data: bytes) -> bool:
    """Whether it is worth to look for an array in other messages."""
    return len(data) >= LARGE


def to_buffer(data: bytes) -> Any:
    """The bytes of an array as they travel: a numpy array when large."""
    return np.frombuffer(data, dtype=np.uint8) if len(data) >= WHOLE else data


def from_buffer(data: Any) -> bytes:
    """Undo `to_buffer`."""
    return data if isinstance(data, bytes) else data.tobytes()


class Shared:
    """The large arrays that several messages hold. They travel once to each worker; messages name their position."""

    def __init__(self, messages: Sequence[Message]) -> None:
        large = [data for message in messages for data in array_bytes(message) if is_large(data)]
        counts = Counter(id(data) for data in large)
        often = {id(data): data for data in large if counts[id(data)] > 1}
        arrays = {key: data for key, data in often.items() if counts[key] * len(data) >= WORTH_SHARING}
        self.buffers = [to_buffer(data) for data in arrays.values()]
        self._positions = {identity: position for position, identity in enumerate(arrays)}
        self._messages = messages  # they keep the arrays alive, else another array could get the same id

    def store(self, data: bytes) -> Any:
        """What stands for an array in a message that travels."""
        position = self._positions.get(id(data))
        return to_buffer(data) if position is None else position


#: Flower's records become tensors only where these are imported already, which an app in a script may have left to the driver.
RECORDS_NEED = ("torch",)


class ClientWorker:
    """One process of the pool. ``imports``: modules that the app may count on."""

    def __init__(self, imports: Sequence[str], gpus: bool) -> None:
        if not gpus:  # Ray shows all of the machine's to who asked for none
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        with collector_away():
            for name in imports:
                import_module(name)
        if "torch" in sys.modules:
            leave_compiler_out()
        self._contexts: dict[int, Context] = {}
        self._reported: dict[int, PlainRecords] = {}  # each state as the driver knows it
        self._shared: list[bytes] = []

    def begin(self, client_app: ClientApp, nodes: int, run_config: Mapping[str, Any], timeout: float) -> list[list[Any]]:
        """Take the app. Answers, with nothing, once clients may have ``timeout`` seconds."""
        self._client_app, self._nodes, self._run_config = client_app, nodes, dict(run_config)
        gc.freeze()  # and between clients too
        self._cpu = time.process_time()
        return self.be_ready_for(timeout)

    def be_ready_for(self, timeout: float) -> list[list[Any]]:
        """Load what a client with so many seconds should not have to load. Answers, with nothing, when that is done."""
        load_compiler_where_time_is_short(timeout)
        return []

    def share(self, buffers: Sequence[Any]) -> None:
        """Take the arrays of a `Shared`: messages of the tasks to come hold one bytes object each."""
        self._shared = [from_buffer(data) for data in buffers]

    def run(self, tasks: Sequence[list[Any]], gone: Sequence[int], timeout: float | None) -> list[list[Any]]:
        """Run tasks in their order, without replies that took more than ``timeout`` seconds; forget nodes that moved away."""
        for node in gone:
            self._contexts.pop(node, None)
            self._reported.pop(node, None)
        return [list(self._run_task(Task(*task), timeout)) for task in tasks]

    def _run_task(self, task: Task, timeout: float | None) -> Answer:
        context = self._context(task)
        begun, replies = time.perf_counter(), []
        for plain in task.messages:
            message = message_from_plain(plain, self._load)
            if reply := run_client(self._client_app, message, context, to_buffer, timeout=timeout):
                replies.append(reply)
        seconds = time.perf_counter() - begun
        state = plain_records(context.state)
        if state == self._reported[task.node_id]:
            return Answer(replies, None, seconds, self._cpu_seconds())
        self._reported[task.node_id] = state
        return Answer(replies, plain_records(context.state, to_buffer), seconds, self._cpu_seconds())

    def _cpu_seconds(self) -> float:
        before, self._cpu = self._cpu, time.process_time()
        return self._cpu - before

    def _context(self, task: Task) -> Context:
        if task.state is not None:
            state = records_from_plain(task.state, from_buffer)
            self._contexts[task.node_id] = client_context(task.node_id, self._nodes, self._run_config, state)
            self._reported[task.node_id] = plain_records(state)
        return self._contexts[task.node_id]

    def _load(self, data: Any) -> bytes:
        return self._shared[data] if isinstance(data, int) else from_buffer(data)
