"""All clients in this process, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import final

from flwr.app import Message

from fedkd.grids.flower import message_from_plain, run_client
from fedkd.grids.jobs import JobGrid


@final
class InProcessGrid(JobGrid):
    """Runs clients where the server runs: nothing to start, nothing to pickle, a debugger stops in the client."""

    def run_jobs(self, messages: Sequence[Message], deadline: float | None) -> Iterator[Message]:
        """Run each message's client in turn."""
        for message in messages:
            if deadline is not None and time.monotonic() >= deadline:
                return
            context = self.context(message.metadata.dst_node_id)
            yield message_from_plain(run_client(self.client_app, message, context))
