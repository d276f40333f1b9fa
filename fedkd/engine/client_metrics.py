"""What a client may report: which names its metrics may have, and which values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from fedkd.results.row_keys import is_owned

#: A name of a metric: what a column of a table can be called.
NAME = re.compile(r"[A-Za-z0-9_][\w .:/+-]{0,99}", re.ASCII)
#: The largest number that a metric may be: a loss is a float32.
LARGEST = 3.4e38


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Check the metrics of an upload, from an honest strategy or from a stranger.

    Raises:
        ValueError: the first name that is taken or is none, or the first value that is no finite number. One line.

    >>> check_metrics({"loss": 0.5, "train_accuracy": 0.9})
    >>> check_metrics({"accuracy": 0.9})
    Traceback (most recent call last):
    ValueError: metrics: the row of a round gives 'accuracy' a meaning of its own: report yours as 'train_accuracy'
    """
    for name, value in metrics.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"metrics: {name[:100]!r} is no name: use up to 100 letters, digits and _ . : / + -")
        if is_owned(name):
            other = "train_accuracy" if name.endswith("accuracy") else f"my_{name}"
            raise ValueError(f"metrics: the row of a round gives {name!r} a meaning of its own: report yours as {other!r}")
        if type(value) not in (int, float) or not (math.isfinite(value) and abs(value) <= LARGEST):
            raise ValueError(f"metrics: {name!r} is {str(value)[:30]}, not a finite number: leave it out where there is none")
