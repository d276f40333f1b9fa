"""Nodes that come while a run goes on: without a key, a SuperNode that is started again is another node to Flower."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import final

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from fedkd.base.errors import InputError, Notice
from fedkd.engine.joining import check_data, claims_of, questions, refuse_errors
from fedkd.engine.reasons import first_line

#: What a node answers that does not know the run, by which the server knows that it was started again.
STARTED_AGAIN = "this node was started again in mid-run, and takes part from the next round on"


@final
class Newcomers:
    """Knows who was there when the run began, and who of the others waits for the place of a client whose node is gone."""

    def __init__(self) -> None:
        self._facts: Mapping[str, str] = {}
        self._met: set[int] = set()
        self._waiting: dict[int, int] = {}  # node -> the client that it claims to be

    def expect(self, facts: Mapping[str, str], nodes: Iterable[int]) -> None:
        """Note what must be equal at all nodes, and who is there."""
        self._facts, self._met = facts, {*self._met, *nodes}

    def take_places(
        self,
        node_of: Mapping[int, int],
        grid: Grid,
        beside: Mapping[str, ConfigRecord],
        ask: Callable[[list[Message]], list[Message]],
    ) -> dict[int, int]:
        """Client -> its new node, for each client whose node is gone and whose place another one claims.

        Args:
            node_of: the node of each client.
            grid: says who is there.
            beside: records that go with every message.
            ask: sends messages, gives the replies.
        """
        there = set(grid.get_node_ids())
        for reply in ask(questions(sorted(there - self._met), ConfigRecord(), beside)):
            client = next(iter(claims_of([reply]).values()))
            try:
                refuse_errors([reply])
                if client in node_of:
                    check_data({client: reply}, self._facts)
                    self._waiting[reply.metadata.src_node_id] = client
            except InputError as error:
                warnings.warn(f"a node that came later is left out: {first_line(str(error))}", Notice, stacklevel=2)
        self._met |= there
        self._waiting = {node: client for node, client in self._waiting.items() if node in there}
        places = {client: node for node, client in sorted(self._waiting.items()) if node_of[client] not in there}
        self._waiting = {node: client for node, client in self._waiting.items() if places.get(client) != node}
        return places
