"""Ray workers that are hired once for many experiments: starting them takes longer than a short run does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from ray import cloudpickle

from fedkd.grids import JobGrid, RayGrid
from fedkd.grids.contexts import Store

HIRED_FOR = "hired-for"
_APPS: dict[str, ClientApp] = {}  # a worker's last one, by its content


class AnyApp(ClientApp):
    """A ClientApp, for which each message brings the app that it is for, as Ray itself would: by cloudpickle."""

    def __call__(self, message: Message, context: Context) -> Message:
        hired_for = message.content.pop(HIRED_FOR)
        context.run_config = {key: value for key, value in hired_for.items() if key not in ("app", "hash")}
        if hired_for["hash"] not in _APPS:
            _APPS.clear()
            _APPS[hired_for["hash"]] = cloudpickle.loads(hired_for["app"])
        return _APPS[hired_for["hash"]](message, context)


class HiredGrid(JobGrid):
    """One run on a `RayGrid` that was opened with `AnyApp` and stays open; none of the runs before is remembered."""

    def __init__(self, workers: RayGrid) -> None:
        super().__init__()
        self._workers = workers

    def open(self, client_app: ClientApp, num_supernodes: int, run_config: Mapping[str, Any] | None = None) -> Self:
        self._workers.restore({})
        self._app = cloudpickle.dumps(client_app)
        self._hash = hashlib.sha256(self._app).hexdigest()
        return super().open(client_app, num_supernodes, run_config)

    def run_jobs(self, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
        for message in messages:
            message.content[HIRED_FOR] = ConfigRecord({**self._run_config, "app": self._app, "hash": self._hash})
        return self._workers.run_jobs(messages, timeout)

    def one_of_each_process(self) -> list[int]:
        return self._workers.one_of_each_process()

    def context(self, node_id: int) -> Context:
        return self._workers.context(node_id)

    def each_state(self) -> Iterator[tuple[int, RecordDict]]:
        return self._workers.each_state()

    def keep_in(self, store: Store) -> None:
        self._workers.keep_in(store)

    def take_changed(self) -> dict[int, RecordDict]:
        return self._workers.take_changed()

    def end_round(self) -> None:
        self._workers.end_round()

    def restore(self, states: Mapping[int, RecordDict]) -> None:
        self._workers.restore(states)
