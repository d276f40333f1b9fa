"""Calls that many jobs of one process make, carried out together: each job waits at its call until the others are at theirs.

A job is an ordinary function. It runs in a greenlet, so it can wait in the middle of a call, however deep, and no two jobs run
at a time. What it waits for is what it says itself: see ``meet``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import copy_context
from typing import Any, TypeVar, final

import torch
from greenlet import getcurrent, greenlet

from fedkd.base.garbage import young_objects_kept
from fedkd.base.randomness import streams_left, streams_may_be_left

T = TypeVar("T")
#: All calls that wait for it, in the order of their jobs -> what each is answered; an exception is raised in its job.
CarryOut = Callable[[Sequence[Any]], Sequence[Any]]


@final
class _Job(greenlet):  # type: ignore[misc]  # greenlet has no types
    """One job, from its start to its end."""

    def __init__(self, function: Callable[[], Any], on_told: Callable[[bool], object]) -> None:
        super().__init__(function)
        self.on_told = on_told
        self.gr_context = copy_context()
        self.waited = 0.0  # seconds that others worked while it waited
        self.call: tuple[CarryOut, Any] | None = None  # what it waits for
        self.size = 0


def can_meet() -> bool:
    """Whether a call made here can wait for those of other jobs."""
    return isinstance(getcurrent(), _Job) and streams_may_be_left() and torch.is_grad_enabled()


def meet(carry_out: CarryOut, call: Any, *, size: int = 0) -> Any:
    """What ``carry_out`` answers to this call, and to those of the other jobs that come to the same function.

    Args:
        carry_out: takes all calls, gives as many answers.
        call: anything.
        size: the bytes that this job holds while it waits.
    """
    job = getcurrent()
    if not (isinstance(job, _Job) and can_meet()):
        (answer,) = carry_out([call])
    else:
        job.call, job.size, since = (carry_out, call), size, time.perf_counter()
        with streams_left():
            assert job.parent is not None
            answer, worked = job.parent.switch()
        job.waited += time.perf_counter() - since - worked
    if isinstance(answer, Exception):
        raise answer
    return answer


def tell(*, together: bool) -> None:
    """Tell who runs the jobs whether what this one wanted to do together with others was done so."""
    if isinstance(job := getcurrent(), _Job):
        job.on_told(together)


def waited() -> float:
    """Seconds for which this job waited while others worked. Of what was carried out together it has its share."""
    return job.waited if isinstance(job := getcurrent(), _Job) else 0.0


def run_jobs(
    jobs: Iterable[Callable[[], T]], *, at_once: int, room: int, on_told: Callable[[bool], object] = bool
) -> Iterator[T]:
    """Run jobs of which up to ``at_once`` wait for each other; fewer where those that wait hold more than ``room`` bytes.

    Yields what each gives, in the order in which they end. What a job raises is raised here. ``on_told`` hears what is told.
    """
    waiting: list[_Job] = []
    rest = iter(jobs)
    try:
        for function in rest:
            yield from _go_on(job := _Job(function, on_told), (), waiting)
            if not waiting:
                continue
            with young_objects_kept():  # and looked at after each lot, as what it leaves may be large
                held = job.size
                while len(waiting) < at_once and held < room and (another := next(rest, None)):
                    yield from _go_on(job := _Job(another, on_told), (), waiting)
                    held += job.size
                yield from _settle(waiting)
    finally:
        for job in waiting:
            job.throw()


def _settle(waiting: list[_Job]) -> Iterator[Any]:
    """Carry out what is waited for until nobody waits."""
    while waiting:
        groups: dict[CarryOut, list[tuple[_Job, Any]]] = {}
        for job in waiting:
            assert job.call is not None
            groups.setdefault(job.call[0], []).append((job, job.call[1]))
        waiting.clear()
        for carry_out, jobs in groups.items():
            since = time.perf_counter()
            answers = carry_out([call for _, call in jobs])
            share = (time.perf_counter() - since) / len(jobs)
            for (job, _), answer in zip(jobs, answers, strict=True):
                yield from _go_on(job, ((answer, share),), waiting)


def _go_on(job: _Job, given: tuple[Any, ...], waiting: list[_Job]) -> Iterator[Any]:
    """Let a job run until it waits again, or to its end."""
    job.call, job.size, threads = None, 0, torch.get_num_threads()
    result = job.switch(*given)
    if torch.get_num_threads() != threads:  # a job that waits has not put them back
        torch.set_num_threads(threads)
    if job.dead:
        yield result
    else:
        waiting.append(job)
