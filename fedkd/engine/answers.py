"""What a client's answer to an evaluation must be: counts of right answers, by predictor and split, that agree."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

#: ``<predictor>/<split>/correct`` and ``.../samples``.
COUNT = re.compile(r"(?P<name>[A-Za-z0-9_][\w .:+-]{0,99})/(?P<split>own|global)/(?P<what>correct|samples)", re.ASCII)
#: No strategy scores more predictors at one client: a generation, exit or branch each.
MOST_PREDICTORS = 200
#: Right answers may be fractions, as the mean of K peers is: so much may they miss by.
TOLERANCE = 1e-6


def check_answer(metrics: Mapping[str, float], samples: Mapping[str, int | None]) -> None:
    """Check the counts of one client's answer.

    Args:
        metrics: as the client sent them.
        samples: the splits that were asked for -> how many labelled samples the client has there; None where nobody else
            knows.

    Raises:
        ValueError: the first count that is unknown, missing, no number, or contradicts another one. One line.
    """
    counts: dict[tuple[str, str], dict[str, float]] = {}
    for key, value in metrics.items():
        found = COUNT.fullmatch(key)
        if not found or found["split"] not in samples:
            raise ValueError(f"{key[:100]!r} was not asked for")
        if type(value) not in (int, float) or not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{key!r} is {str(value)[:30]}, not a count")
        counts.setdefault((found["name"], found["split"]), {})[found["what"]] = value
    if len(counts) > MOST_PREDICTORS * len(samples):
        raise ValueError(f"it scores over {MOST_PREDICTORS} predictors")
    sizes: dict[str, float | None] = dict(samples)
    for (name, split), count in counts.items():
        if len(count) < 2:
            raise ValueError(f"'{name}/{split}' has no {'samples' if 'correct' in count else 'correct'}")
        correct, size = count["correct"], count["samples"]
        known = sizes[split]
        if known is None:
            known = sizes[split] = size  # what it says first, it must say of every predictor
        if size != known or size != int(size):
            raise ValueError(f"'{name}/{split}' counts {size:g} samples, not {known:g}")
        if correct > size * (1 + TOLERANCE):
            raise ValueError(f"'{name}/{split}' has {correct:g} right answers to {size:g} samples")
