"""Jobs that wait for each other in the middle of a call."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from fedkd.base.meeting import can_meet, meet, run_jobs, tell, waited
from fedkd.base.randomness import seeded, streams_aside

TRIED: list[int] = []


def summed(calls: Sequence[int]) -> list[int]:
    """The sum of all calls to each of them."""
    TRIED.append(len(calls))
    return [sum(calls)] * len(calls)


def job(number: int, times: int = 1) -> Callable[[], list[int]]:
    def run() -> list[int]:
        with seeded(number):
            return [meet(summed, number) for _ in range(times)]

    return run


def run(*jobs: Callable[[], object], at_once: int = 100, room: int = 2**30) -> list[object]:
    TRIED.clear()
    with streams_aside():
        return list(run_jobs(jobs, at_once=at_once, room=room))


def test_calls_are_carried_out_as_one() -> None:
    assert run(job(1), job(2), job(3)) == [[6], [6], [6]]
    assert TRIED == [3]


def test_who_has_more_calls_waits_for_who_is_left() -> None:
    assert run(job(1, 2), job(2), job(3, 2)) == [[6], [6, 4], [6, 4]]


def test_no_more_wait_than_may() -> None:
    run(*map(job, range(5)), at_once=2)
    assert TRIED == [2, 2, 1]

    def large(number: int) -> Callable[[], int]:
        def run() -> int:
            with seeded(number):
                return int(meet(summed, number, size=60))

        return run

    run(*map(large, range(5)), room=100)
    assert TRIED == [2, 2, 1]


def test_one_that_is_no_job_waits_for_nobody() -> None:
    assert not can_meet()
    assert meet(summed, 5) == 5
    assert waited() == 0


def test_who_runs_jobs_is_told() -> None:
    told: list[bool] = []
    jobs = [lambda: tell(together=True), lambda: tell(together=False), lambda: None]
    list(run_jobs(jobs, at_once=3, room=1, on_told=told.append))
    tell(together=True)  # of no job: nobody hears it
    assert told == [True, False]


def test_an_answer_that_is_an_error_is_raised_in_its_job() -> None:
    def odd_fails(calls: Sequence[int]) -> list[object]:
        return [ValueError(f"{call} is odd") if call % 2 else call for call in calls]

    def careful(number: int) -> Callable[[], object]:
        def run() -> object:
            with seeded(0):
                try:
                    return meet(odd_fails, number)
                except ValueError as error:
                    return str(error)

        return run

    assert run(careful(2), careful(3)) == [2, "3 is odd"]


def test_what_a_job_raises_is_raised_and_the_others_end_tidily() -> None:
    ended: list[int] = []

    def waits() -> None:
        try:
            with seeded(1):
                meet(summed, 1)
        finally:
            ended.append(1)

    def fails() -> None:
        raise KeyboardInterrupt

    before = torch.random.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        run(waits, fails)
    assert ended == [1]
    assert torch.equal(torch.random.get_rng_state(), before)


def drawing(number: int, *, waits: bool) -> Callable[[], list[float]]:
    def draw() -> list[float]:
        return [torch.rand(()).item(), float(np.random.random()), random.random()]

    def run() -> list[float]:
        with seeded(number):
            first = draw()
            if waits:
                meet(summed, number)
            with seeded(7):
                between = draw()
            return [*first, *between, *draw()]

    return run


def test_a_jobs_random_streams_go_on_where_they_stood() -> None:
    alone = run(*(drawing(number, waits=False) for number in range(3)))
    assert run(*(drawing(number, waits=True) for number in range(3))) == alone
    assert run(*(drawing(number, waits=True) for number in range(3))) == alone  # generators that stood in are used again


def test_a_jobs_threads_are_its_own() -> None:
    from fedkd.base.randomness import torch_threads

    def threaded(number: int) -> Callable[[], int]:
        def run() -> int:
            with torch_threads(number), seeded(0):
                meet(summed, number)
                return torch.get_num_threads()

        return run

    before = torch.get_num_threads()
    assert run(threaded(2), threaded(1), threaded(3)) == [2, 1, 3]
    assert torch.get_num_threads() == before
