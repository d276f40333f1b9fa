"""Global generators are seeded inside a block and are afterwards as if it had not been."""

from __future__ import annotations

import random
from contextlib import nullcontext

import numpy as np
import torch

from fedkd.base.randomness import derive, seeded, streams_aside


def draw() -> list[float]:
    """One number of each global generator, normal ones of NumPy too, which come in pairs."""
    return [float(torch.rand(())), random.random(), float(np.random.rand()), float(np.random.randn()), random.gauss(0, 1)]


def test_the_same_seed_draws_the_same_everywhere_and_another_does_not() -> None:
    found = []
    for seed in (1, 1, 2, derive(0, "a 63-bit seed")):
        with seeded(seed):
            found.append([draw(), draw()])
    assert found[0] == found[1]
    assert all(one != other for one, other in zip(found[1][0], found[2][0], strict=True))


def test_after_a_block_all_go_on_as_without_it() -> None:
    """In the middle of a pair of normal numbers, too, and after an error."""

    def drawn(*, interrupted: bool) -> list[list[float]]:
        torch.manual_seed(3)
        random.seed(4)
        np.random.seed(5)
        first = draw()
        try:
            with seeded(7):
                draw()
                np.random.seed(9)
                if interrupted:
                    raise KeyError
        except KeyError:
            pass
        return [first, draw()]

    torch.manual_seed(3)
    random.seed(4)
    np.random.seed(5)
    without = [draw(), draw()]
    assert drawn(interrupted=False) == drawn(interrupted=True) == without


def test_blocks_may_stand_in_one_another() -> None:
    with seeded(1):
        alone = [draw(), draw()]
    with seeded(1):
        first = draw()[:3]
        with seeded(2):
            inner = draw()
        outer = draw()[:3]
    with seeded(2):
        assert inner == draw()
    assert [first, outer] == [drawn[:3] for drawn in alone]


def test_with_streams_aside_blocks_draw_the_same_and_all_go_on_after_the_last() -> None:
    def drawn(*, aside: bool) -> list[list[float]]:
        torch.manual_seed(3)
        random.seed(4)
        np.random.seed(5)
        first, blocks = draw(), []
        with streams_aside() if aside else nullcontext():
            for seed in (1, 2):
                with seeded(seed):
                    blocks += [draw()]
                    with seeded(3):
                        blocks += [draw()]
                    blocks += [draw()[:3]]
        return [first, *blocks, draw()]

    assert drawn(aside=True) == drawn(aside=False)
