"""Ray workers that are hired once for many experiments: starting them takes longer than a short run does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedkd import app
from fedkd.grids import JobGrid, RayGrid

CONFIG = "run-config"


class AnyExperiment(ClientApp):
    """fedkd's ClientApp, for which each message says which experiment it belongs to."""

    def __call__(self, message: Message, context: Context) -> Message:
        context.run_config = dict(message.content.pop(CONFIG))
        return app.client(message, context)


class HiredGrid(JobGrid):
    """One run on a `RayGrid` that was opened with `AnyExperiment` and stays open; none of the runs before is remembered."""

    def __init__(self, workers: RayGrid) -> None:
        super().__init__()
        self._workers = workers

    def open(self, client_app: ClientApp, num_supernodes: int, run_config: Mapping[str, Any] | None = None) -> Self:
        self._workers.restore({})
        return super().open(client_app, num_supernodes, run_config)

    def run_jobs(self, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
        for message in messages:
            message.content[CONFIG] = ConfigRecord(self._run_config)
        return self._workers.run_jobs(messages, timeout)

    def context(self, node_id: int) -> Context:
        return self._workers.context(node_id)

    def states(self) -> dict[int, RecordDict]:
        return self._workers.states()

    def restore(self, states: Mapping[int, RecordDict]) -> None:
        self._workers.restore(states)
