"""Learning-rate schedules over rounds, as factors of the base rate."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rate_at(schedule: str, round: int, rounds: int, warm_up: int, milestones: Sequence[int], gamma: float) -> float:
    """The factor of a round, counted from 1.

    Linear warm-up over the first ``warm_up`` rounds, then constant; cosine from 1 towards 0 over the rest; or steps: times
    ``gamma`` after each milestone round.

    >>> [round(rate_at("cosine", r, 4, 0, (), 0.1), 3) for r in (1, 2, 3, 4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    if round <= warm_up:
        return round / warm_up
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (round - 1 - warm_up) / max(1, rounds - warm_up)))
    if schedule == "step":
        return float(gamma ** sum(round > milestone for milestone in milestones))
    return 1.0
