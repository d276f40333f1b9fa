"""Waiting for replies, and telling how many there are. On grids that are not ours one asks, and asks again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from flwr.app import Message
from flwr.serverapp import Grid

from fedkd.base.errors import InputError
from fedkd.engine.instruction import EVALUATE, TRAIN
from fedkd.grids.backoff import shorten_first_backoff
from fedkd.grids.jobs import JobGrid
from fedkd.results.progress import OnProgress, Progress

#: What clients do who were sent a message of a kind, in words.
PHASES = {TRAIN: "training", EVALUATE: "evaluation"}
#: How long to wait until replies are asked for again, in seconds: at first, and at most. Flower's own wait is 3.
FIRST_WAIT, LONGEST_WAIT = 0.1, 0.5


def looks(timeout: float) -> Iterator[None]:
    """One pass for each look, until the timeout is over, with waits in between that grow."""
    shorten_first_backoff()
    deadline, wait = time.monotonic() + timeout, FIRST_WAIT
    yield
    while time.monotonic() < deadline:
        time.sleep(wait)
        wait = min(wait * 1.2, LONGEST_WAIT)
        yield


def replies_to(
    messages: list[Message], grid: Grid, timeout: float, on_reply: Callable[[int], None] = lambda replies: None
) -> list[Message]:
    """Send messages and wait, at most the timeout, for a reply to each. ``on_reply`` hears how many there are so far."""
    if not messages:
        return []
    if isinstance(grid, JobGrid):
        with grid.telling(on_reply):
            return list(grid.send_and_receive(messages, timeout=timeout))
    unanswered, replies = set(grid.push_messages(messages)), list[Message]()
    for _ in looks(timeout):
        found = list(grid.pull_messages(sorted(unanswered)))
        replies += found
        on_reply(len(replies))
        unanswered -= {reply.metadata.reply_to_message_id for reply in found}
        if not unanswered:
            break
    return replies


def telling(messages: list[Message], on_progress: OnProgress | None) -> Callable[[int], None]:
    """What hears how many of these messages were answered, and tells how far the round is. It begins with none."""
    first, began = messages[0].metadata, time.monotonic()
    phase, round = PHASES.get(first.message_type), first.group_id

    def hears(done: int) -> None:
        if on_progress and phase:
            on_progress(Progress(int(round), phase, done, len(messages), time.monotonic() - began))

    hears(0)
    return hears


def wait_for_nodes(grid: Grid, clients: int, timeout: float, poll: float) -> list[int]:
    """The ids of all nodes, in order, as soon as there are as many as clients. InputError where the timeout is over before."""
    deadline = time.monotonic() + timeout
    while len(nodes := sorted(grid.get_node_ids())) < clients:
        if time.monotonic() > deadline:
            raise InputError(f"data.clients: {len(nodes)} of {clients} nodes joined in {timeout:g} s")
        time.sleep(poll)
    return nodes
