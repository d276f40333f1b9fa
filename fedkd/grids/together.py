"""All clients in this process, those of one exchange side by side: what they compute alike is computed for all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import final

from flwr.app import Message

from fedkd.base.meeting import run_jobs
from fedkd.grids.client_call import answered
from fedkd.grids.flower import copy_message
from fedkd.grids.jobs import JobGrid

#: So many clients wait for each other at most, and fewer where their nets hold more bytes than there is room for.
AT_ONCE, ROOM = 512, 512 * 2**20


@final
class TogetherGrid(JobGrid):
    """Runs each client until it comes to a training, and all these trainings as one where they agree.

    A client of any app runs here; it goes as in ``InProcessGrid`` unless it asks to wait, see ``fedkd.base.meeting``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: list[bool] = []  # of each training, whether it was one with others

    def summary(self) -> dict[str, float]:
        """``trained_together``: the share of the trainings since it was asked last that were carried out as one with others."""
        told, self._told = self._told, []
        return {"trained_together": sum(told) / len(told)} if told else {}

    def run_jobs(self, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
        """Run the messages' clients, by node and not by arrival, so that the same ones always come together."""
        for side_by_side in _of_different_nodes(messages):
            jobs = (self._job(message, timeout) for message in side_by_side)
            for reply in run_jobs(jobs, at_once=AT_ONCE, room=ROOM, on_told=self._told.append):
                if reply is not None:
                    yield reply

    def _job(self, message: Message, timeout: float | None) -> Callable[[], Message | None]:
        context = self.context(message.metadata.dst_node_id)
        return lambda: answered(self.client_app, message, context, copy_message, timeout=timeout)


def _of_different_nodes(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Parts of the messages in which no node has two, by node; those of one node in their order."""
    parts: list[dict[int, Message]] = []
    for message in messages:
        node = message.metadata.dst_node_id
        part = next((part for part in parts if node not in part), None)
        if part is None:
            parts.append(part := {})
        part[node] = message
    yield from ([part[node] for node in sorted(part)] for part in parts)
