"""Calls of one function side by side in Ray's processes, which are started once and used again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import ray
from ray.exceptions import RayError

from fedkd.grids.cluster import connected

#: How often there is a sign of life while calls are at work, in seconds.
TICK_SECONDS = 0.5
#: How long calls that are broken off may take to end, in seconds; then their processes are killed.
END_SECONDS = 10.0


@final
@dataclass(frozen=True)
class Call:
    """The arguments of one call, and what it takes of cores and GPUs."""

    arguments: tuple[Any, ...]
    num_cpus: float = 1
    num_gpus: float = 0.0


@final
@dataclass(frozen=True)
class Begun:
    """The call of this number was handed to Ray."""

    call: int


@final
@dataclass(frozen=True)
class Ended:
    """The call of this number gave ``value``; or ``death`` says how its process died."""

    call: int
    value: Any = None
    death: str = ""


def side_by_side(
    function: Callable[..., Any],
    calls: Sequence[Call],
    *,
    jobs: int,
    memory: Callable[[], int] = lambda: 0,
    address: str = "",
) -> Iterator[Begun | Ended | None]:
    """Call the function, at most ``jobs`` times at once and never beyond the machine's cores, GPUs and memory.

    The function must not raise. ``memory`` says how many bytes a call takes, as far as is known when it begins; 0: nobody
    knows. None is a sign of life. Whoever breaks off has the calls that are at work broken off too, by a
    KeyboardInterrupt in each.

    Raises:
        InputError: there is no room for so many, or no Ray at ``address``.
    """
    most_cpus, most_gpus = max(call.num_cpus for call in calls), max(call.num_gpus for call in calls)
    with connected(address, jobs, most_cpus, most_gpus):
        room = int(ray.cluster_resources().get("memory", 0.0))
        remote, waiting, at_work = ray.remote(function), deque(enumerate(calls)), dict[Any, int]()
        try:
            while waiting or at_work:
                while waiting and len(at_work) < jobs:
                    number, call = waiting.popleft()
                    needs = {"num_cpus": call.num_cpus, "num_gpus": call.num_gpus, "memory": min(memory(), room)}
                    at_work[remote.options(**needs, max_retries=0).remote(*call.arguments)] = number
                    yield Begun(number)
                done, _ = ray.wait(list(at_work), timeout=TICK_SECONDS)
                for task in done:
                    yield _ended(at_work.pop(task), task)
                if not done:
                    yield None
        finally:
            for task in at_work:
                ray.cancel(task)
            if at_work:
                ray.wait(list(at_work), num_returns=len(at_work), timeout=END_SECONDS)


def _ended(number: int, task: Any) -> Ended:
    try:
        return Ended(number, ray.get(task))
    except RayError as death:
        return Ended(number, death=" ".join(str(death).split())[:300])
