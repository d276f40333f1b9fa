"""Work that moves from one actor's queue to another's."""

from __future__ import annotations

from collections.abc import Iterable

from fedkd.grids.schedule import CHUNK_SECONDS, Schedule
from fedkd.grids.seat import Seat

#: How often it is looked whether a client hangs, and Ray lives, in seconds.
TICK_SECONDS = 1.0


def steal(thief: Seat, seats: Iterable[Seat], schedule: Schedule) -> None:
    """An idle actor takes the shortest job that may move from one which has much to do, takes long, or finds no room."""
    victim = max((seat for seat in seats if seat.started or seat.follows), key=lambda seat: len(seat.queue))
    much = len(victim.queue) * (schedule.pace or 0.0) >= CHUNK_SECONDS
    if victim.queue and (much or victim.waited > TICK_SECONDS):
        job = victim.queue[-1]
        if not victim.started or (not job.alone and schedule.may_move(job.node_id)):
            thief.queue.append(victim.queue.pop())
