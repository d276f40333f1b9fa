"""A grid that asks clients last to first and keeps nothing of theirs but their Context: no luck with order or leftovers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, final

from flwr.app import Message

from fedkd.grids import JobGrid
from fedkd.grids.client_call import run_client
from fedkd.grids.flower import copy_records, message_from_plain


@final
class BackwardGrid(JobGrid):
    """All clients in this process. Each call starts from a copy of the state that the last one left in its Context."""

    keeps_contexts: ClassVar[bool] = False

    def run_jobs(self, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
        """Run each message's client, the last one first."""
        for message in reversed(messages):
            context = self.context(message.metadata.dst_node_id)
            context.state = copy_records(context.state)
            if reply := run_client(self.client_app, message, context, timeout=timeout):
                yield message_from_plain(reply)
