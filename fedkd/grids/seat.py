"""A place in a RayGrid's pool: its actor, what waits for it, and what it is at work on."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message

#: A client's own clock says whether it is late; so much longer is waited for what it says before its actor is taken away.
GRACE_SECONDS = 5.0
#: How long an actor may take to start.
START_SECONDS = 600.0


@dataclass(eq=False)
class Job:
    """Messages of one send to one node."""

    node_id: int
    send: int
    messages: list[Message] = field(default_factory=list)
    deaths: int = 0  # of actors that were at work on it
    alone: bool = False  # it gets a call of its own: if that goes wrong, it is known who did it


@dataclass(eq=False)
class Seat:
    """Its actor may die, or be taken away, and be replaced."""

    index: int
    actor: Any
    queue: deque[Job] = field(default_factory=deque)
    calls: dict[Any, list[Job]] = field(default_factory=dict)  # in flight, oldest first
    started: bool = False  # before that, its one call has no jobs
    follows: bool = False  # in the place of an actor that died or was taken away
    since: float = field(default_factory=time.monotonic)  # when its oldest call was begun, or later
    nodes: set[int] = field(default_factory=set)  # whose newest Context is there
    gone: set[int] = field(default_factory=set)  # whose Context there is out of date
    shared_of: int = 0  # the send whose shared arrays are there

    @property
    def jobs(self) -> list[Job]:
        """All that is in flight."""
        return [job for jobs in self.calls.values() for job in jobs]

    @property
    def oldest(self) -> list[Job]:
        """The jobs of the oldest call in flight."""
        return next(iter(self.calls.values()), [])

    @property
    def waited(self) -> float:
        """For how many seconds its oldest call has been at work, at most."""
        return time.monotonic() - self.since

    def outdate(self, node_id: int) -> None:
        """The node's Context there, if it is there, is out of date from now on."""
        if node_id in self.nodes:
            self.nodes.remove(node_id)
            self.gone.add(node_id)

    def patience(self, timeout: float | None) -> float:
        """How many seconds its oldest call may take: of one client ``timeout`` a message, of several one ``timeout``."""
        if not self.started:
            return START_SECONDS
        if timeout is None:
            return math.inf
        return GRACE_SECONDS + timeout * (len(self.oldest[0].messages) if len(self.oldest) == 1 else 1)
