"""A run that is killed, at whatever moment and with kill -9, goes on and ends in the very bytes of an unbroken one."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from test_resume import rows

from fedkd import Experiment, simulate

MOMENTS = 20
#: Nets, optimisers and the codecs' bases of clients, memory at the server, absent clients, and two exchanges a round.
WHOLE = Experiment(
    strategy={"name": "dsfl", "public_per_round": 20},
    rounds=3,
    participation=0.75,
    nets={"mlp": 0.5, "cnn": 0.5},
    net_options={"mlp": {"hidden": [4]}, "cnn": {"channels": [2, 2], "hidden": 4}},
    uplink=["delta", "deflate"],
    downlink=["delta"],
    train={"momentum": 0.9, "batch_size": 16},
    data={"clients": 4, "partition": "iid", "train_limit": 100, "test_limit": 40, "public": 30},
    record={"uploads": True},
)
fork = multiprocessing.get_context("fork")


def at_call(number: int, act: Callable[[], None]) -> Callable[[FrameType, str, Any], None]:
    """A profiler that acts at the so many-th call of a Python function."""
    left = number

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        if event == "call":
            left -= 1
            if not left:
                act()

    return profile


def run_until(number: int, place: Path) -> None:
    """Run in this process, which is killed at that call."""
    sys.setprofile(at_call(number, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    simulate(WHOLE, out=place)


def content(place: Path) -> dict[str, bytes]:
    """What a run leaves that others go on with: final nets, uploads."""
    return {file.name: file.read_bytes() for folder in ("nets", "uploads") for file in (place / folder).iterdir()}


def calls_of_a_run(place: Path) -> int:
    counted = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal counted
        counted += event == "call"

    sys.setprofile(profile)
    try:
        simulate(WHOLE, out=place)
    finally:
        sys.setprofile(None)
    return counted


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither fork nor kill -9")
def test_killed_at_twenty_random_moments_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    for warming in ("whole", "again"):
        simulate(WHOLE, out=tmp_path / warming)
    last, rng, killed = int(0.98 * calls_of_a_run(tmp_path / "counted")), random.Random(0), 0
    for moment in range(MOMENTS):
        place = tmp_path / "pieces" / str(moment)
        process = fork.Process(target=run_until, args=(rng.randrange(1, last), place))
        process.start()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        if not (begun := any(place.glob("checkpoint/round-*"))):  # nothing is there to go on from
            place = place.with_name(f"{moment}-anew")
        simulate(WHOLE, out=place, resume=begun)
        assert rows(place) == rows(tmp_path / "whole"), moment
        assert content(place) == content(tmp_path / "whole"), moment
    assert killed == MOMENTS
