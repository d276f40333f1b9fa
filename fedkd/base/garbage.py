"""Python's garbage collector, and what it need not look at."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_away() -> Iterator[None]:
    """Inside the block nothing is collected, and what was made there counts as old after it: for loading code, which stays.

    The collector would walk through what is loaded time and again, for a sixth of the time that loading takes.
    """
    at_work = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if at_work:
            with old_objects_kept():
                gc.enable()


@contextmanager
def old_objects_kept() -> Iterator[None]:
    """Inside the block the collector passes over all that was there before.

    Torch and Flower are some 400,000 objects: a full collection, which a thousand small clients bring about, would walk
    through them for 0.15 s. Nothing is done inside a block of somebody else's.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def young_objects_kept() -> Iterator[None]:
    """Inside the block the collector looks at new objects after every 100,000 of them and not after every 700.

    Of what hundreds of clients hold that are all in mid-call nothing is garbage, and each look would walk through more of it.
    """
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
