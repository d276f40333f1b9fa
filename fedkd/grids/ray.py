"""Clients on a pool of Ray actors: on this machine's cores and GPUs, or on a cluster."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self, final

import ray
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from fedkd.base.errors import InputError, RunFailed
from fedkd.grids.actors import Actors
from fedkd.grids.cluster import connected
from fedkd.grids.flower import ErrorCode, error_reply, message_from_plain, plain_message, plain_records, records_from_plain
from fedkd.grids.jobs import JobGrid
from fedkd.grids.lifeline import Lifeline, exit_of
from fedkd.grids.schedule import Schedule, calls_ahead, chunk_size
from fedkd.grids.seat import START_SECONDS, Job, Seat
from fedkd.grids.steal import TICK_SECONDS, steal
from fedkd.grids.worker import RECORDS_NEED, Answer, Shared, Task, from_buffer, to_buffer

ALONE_SECONDS = 60.0  # with a shorter timeout a call carries one client, so that one that hangs costs it once, not twice


@final
class RayGrid(JobGrid):
    """Runs clients in ``actors`` processes, each with ``num_cpus`` cores and ``num_gpus`` GPUs (0.25: four share one).

    ``address`` is ``""`` for a Ray of our own on this machine, ``"auto"`` or ``"ray://host:10001"`` for a cluster.
    A client stays at one actor within a group of messages (a round); for the next group clients are spread by the
    seconds that they took. The states that count are here: an actor that dies is replaced, its clients go on from the
    last state that came back, and what it had not answered is run once more, each client alone. Where a node of the
    cluster is gone and there is no room for its actors, the others do their work. An actor whose client hangs is taken
    away after the timeout, and that client too goes on from its last state. `open` waits for Ray itself (3 s) but not for
    the actors, which start while the server does. RunFailed is raised if Ray dies.
    """

    def __init__(self, actors: int = 2, num_cpus: float = 1, num_gpus: float = 0.0, address: str = "") -> None:
        if actors < 1 or num_cpus <= 0 or num_gpus < 0:
            given = f"actors = {actors}, num_cpus = {num_cpus}, num_gpus = {num_gpus}"
            raise InputError(f"RayGrid({given}): actors must be at least 1, num_cpus above 0 and num_gpus not below 0")
        super().__init__()
        self._actors, self._num_cpus, self._num_gpus, self._address = actors, num_cpus, num_gpus, address
        self.on_this_machine, self.cpu_seconds = not address, 0.0
        self._seats: list[Seat] = []
        self._cluster = ExitStack()

    def begin(self, imports: Sequence[str] = ()) -> Self:
        """Join or start Ray, and begin to start the actors, which import these modules: all that `open` does before an app is
        there, for a program that has much to load beside it. Raises InputError where the actors do not fit.
        """
        try:
            self._cluster.enter_context(connected(self._address, self._actors, self._num_cpus, self._num_gpus))
            self._lifeline, self._hired = Lifeline(), Actors(self._num_cpus, self._num_gpus, imports)
            self._seats = [self._hired.hire(index) for index in range(self._actors)]
        except BaseException:
            self.close()
            raise
        return self

    def open(self, client_app: ClientApp, num_supernodes: int, run_config: Mapping[str, Any] | None = None) -> Self:
        """Bind the grid and its actors to an app, after `begin` where that was not called; see `JobGrid.open`."""
        super().open(client_app, num_supernodes, run_config)
        self._schedule, self._send = Schedule(self._actors), 0
        if not self._seats:
            self.begin([name for name in RECORDS_NEED if name in sys.modules])
        try:
            self._hired.take(client_app, self._nodes, self._run_config)
            for seat in self._seats:
                self._hired.bind(seat)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Kill the actors at once, and stop Ray if this grid has started it."""
        try:
            for seat in self._seats:
                ray.kill(seat.actor)
        finally:
            self._seats = []
            self._cluster.close()
            super().close()

    def one_of_each_process(self) -> list[int]:
        """As many as there are actors; see `JobGrid.one_of_each_process`."""
        return list(range(min(self._actors, self._nodes)))

    def restore(self, states: Mapping[int, RecordDict]) -> None:
        """Go back to these client states; see `JobGrid.restore`."""
        super().restore(states)
        for seat in self._seats:
            seat.gone |= seat.nodes
            seat.nodes.clear()

    def _left(self, node_id: int) -> None:
        """Then its actor forgets it too."""
        for seat in self._seats:
            seat.outdate(node_id)

    def run_jobs(self, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
        """Spread the messages over the actors, and yield replies as they come."""
        self._lifeline.check(every=0.1)
        self._hired.make_ready(self._seats, timeout)
        self._plan(messages)
        try:
            while any(seat.queue or self._owes(seat) for seat in self._seats):
                pace = None if timeout is not None and timeout < ALONE_SECONDS else self._schedule.pace
                for seat in self._seats:
                    self._feed(seat, pace, timeout)
                calls = {call: seat for seat in self._seats for call in seat.calls}
                last = not any(seat.queue for seat in self._seats)  # nothing to hand out, whoever is done first
                done, _ = ray.wait(list(calls), num_returns=len(calls) if last else 1, timeout=TICK_SECONDS)
                for call in done:
                    if calls[call] in self._seats:  # else its actor died at another of these, and has been replaced
                        yield from self._collect(calls[call], call)
                self._lifeline.check(every=TICK_SECONDS)
                for seat in [seat for seat in self._seats if seat.calls and seat.waited > seat.patience(timeout)]:
                    self._take_away(seat)
        finally:
            for seat in self._seats:
                seat.queue.clear()
            self._shared, self._buffers = Shared(()), None

    # ---- questions

    def _plan(self, messages: Sequence[Message]) -> None:
        self._send += 1
        self._shared = Shared(messages)
        self._buffers = ray.put(self._shared.buffers) if self._shared.buffers else None
        jobs: dict[int, Job] = {}
        for message in messages:
            node = message.metadata.dst_node_id
            jobs.setdefault(node, Job(node, self._send)).messages.append(message)
        queues = self._schedule.plan(messages[0].metadata.group_id, jobs)
        for seat, queue in zip(self._seats, queues, strict=True):
            seat.queue = deque(jobs[node] for node in queue)

    def _feed(self, seat: Seat, pace: float | None, timeout: float | None) -> None:
        """Keep an actor busy."""
        while len(seat.calls) < calls_ahead(pace) and (jobs := self._next_jobs(seat, pace)):
            if self._buffers is not None and seat.shared_of != self._send:
                seat.actor.share.remote(self._buffers)
                seat.shared_of = self._send
            tasks = [list(self._task(seat, job)) for job in jobs]
            call = seat.actor.run.remote(tasks, list(seat.gone), timeout)
            seat.gone.clear()
            if not seat.calls:
                seat.since = time.monotonic()
            seat.calls[call] = jobs

    def _next_jobs(self, seat: Seat, pace: float | None) -> list[Job]:
        """The jobs of an actor's next call."""
        if not seat.started or any(job.alone or job.send != self._send for job in seat.jobs):
            return []
        if seat.queue and seat.queue[0].alone:
            return [] if seat.calls else [seat.queue.popleft()]
        if not seat.queue and not seat.calls:
            steal(seat, self._seats, self._schedule)
        size = min(len(seat.queue), chunk_size(len(seat.queue), pace))
        return [seat.queue.popleft() for _ in range(size)]

    def _task(self, seat: Seat, job: Job) -> Task:
        """Take a job apart for its actor, with the client's state if that actor has not got it."""
        node, state = job.node_id, None
        context = self.context(node)  # asked for, so that it stays while its client is at work
        if node not in seat.nodes:
            state = plain_records(context.state, to_buffer)
            self._seats[self._schedule.homes.get(node, seat.index)].outdate(node)
            seat.nodes.add(node)
            seat.gone.discard(node)
        self._schedule.begin(node, seat.index)
        return Task(node, state, [plain_message(message, self._shared.store) for message in job.messages])

    # ---- answers

    def _owes(self, seat: Seat) -> bool:
        return any(job.send == self._send for job in seat.jobs)

    def _collect(self, seat: Seat, call: Any) -> Iterator[Message]:
        jobs = seat.calls[call]
        try:
            answers = [Answer(*answer) for answer in ray.get(call)]
        except RayTaskError as failure:
            if jobs:
                raise
            raise RuntimeError(f"a Ray worker could not start: {str(failure).splitlines()[-1]}") from failure
        except (RayActorError, ObjectLostError) as death:  # an answer too may have lain on a node that is gone
            self._lifeline.check()
            yield from self._bury(seat, death)
            return
        del seat.calls[call]
        seat.started, seat.since = True, time.monotonic()
        for job, answer in zip(jobs, answers, strict=True):
            self._schedule.end(job.node_id, answer.seconds)
            self.cpu_seconds += answer.cpu_seconds
            if answer.state is not None and job.node_id in seat.nodes:
                self.context(job.node_id).state = records_from_plain(answer.state, from_buffer)
            self._contexts.leave(job.node_id, job.messages)
            if job.send == self._send:  # else that send was broken off
                yield from (message_from_plain(reply, from_buffer) for reply in answer.replies)

    def _bury(self, seat: Seat, death: Exception) -> Iterator[Message]:
        """Replace a dead actor; what it had not answered is run once more, each client alone, or given up."""
        if not seat.started and not (seat.follows and self._at_work):
            raise RuntimeError(f"a Ray worker could not start: {str(death).splitlines()[-1]}") from death
        again: list[Job] = []
        for job in self._lost(seat):
            job.deaths, job.alone = job.deaths + 1, True
            if job.deaths < 2:
                again.append(job)
                continue
            reason = f"WorkerDied: the worker died while it ran client {job.node_id}, twice (exit: {exit_of(death)})"
            for message in job.messages:
                yield error_reply(message, ErrorCode.CLIENT_APP_CRASHED, reason)
        self._replace(seat, again)

    def _take_away(self, seat: Seat) -> None:
        """Replace an actor that is at work for longer than one client may be. Of several clients, each is then run alone."""
        if not seat.started and self._at_work:  # it waits for room, which a node took with it
            seat.since = time.monotonic()
            return
        if not seat.started:
            raise RunFailed(f"a Ray worker has not started in {START_SECONDS:g} s: lower engine.actors or engine.num_cpus")
        late = seat.oldest
        for job in late:
            job.alone = True
        self._replace(seat, [job for job in self._lost(seat) if job not in late or len(late) > 1])

    @property
    def _at_work(self) -> bool:
        return any(seat.started for seat in self._seats)

    def _lost(self, seat: Seat) -> list[Job]:
        return [job for job in seat.jobs if job.send == self._send]

    def _replace(self, seat: Seat, again: list[Job]) -> None:
        """Put a new actor in the place of an old one, which has these jobs to do again, and then its queue."""
        ray.kill(seat.actor)  # a dead one may only have been out of reach
        fresh = self._seats[seat.index] = self._hired.hire(seat.index)
        self._hired.bind(fresh)
        fresh.follows = True
        fresh.queue.extend([*again, *seat.queue])
