"""All clients in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from flwr.app import Message

from fedkd.grids.client_call import answered
from fedkd.grids.flower import copy_message
from fedkd.grids.jobs import JobGrid


@final
class InProcessGrid(JobGrid):
    """Runs clients where the server runs: nothing to start, nothing to pickle, a debugger stops in the client."""

    def run_jobs(self, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
        """Run each message's client in turn. None can be stopped: one that hangs is waited for."""
        for message in messages:
            node = message.metadata.dst_node_id
            reply = answered(self.client_app, message, self.context(node), copy_message, timeout=timeout)
            self._contexts.leave(node, [message])
            if reply is not None:
                yield reply
