"""The [stop] section of the experiment file: when a run ends before its last round."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.section import Section

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def read_bytes(given: object) -> object:
    """A number of bytes, also with a decimal unit.

    >>> read_bytes("50MB"), read_bytes("1.5 kB"), read_bytes(7)
    (50000000, 1500, 7)

    Raises InputError for a text that is none.
    """
    if not isinstance(given, str):
        return given
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*(B|kB|MB|GB|TB)?\s*", given)
    if not found:
        raise InputError(f'stop.bytes: {given!r} is no number of bytes: write 50000000, or with a unit as "50MB" (B to TB)')
    return round(float(found[1]) * _UNITS[found[2] or "B"])


class Stopping(Section):
    """When a run ends before its last round: as soon as one of these is met. Its last row says which.

    It is looked at after each round, and the round in which the run stops is evaluated.
    """

    accuracy: float = Field(0.0, ge=0, le=1)
    """The run stops when its metric reaches this; 0: it does not. The state before training does not count. ``accuracy = 0.8``
    """
    patience: int = Field(0, ge=0)
    """The run stops when its metric has not improved in so many measurements after its best; 0: it does not. ``patience = 10``
    """
    metric: str = "accuracy"
    """The key of metrics.jsonl that accuracy and patience look at. Shares are best where they are highest, all else where it is
    lowest. ``metric = "probe_accuracy"``
    """
    improvement: float = Field(0.0, ge=0)
    """By how much the metric must be better than its best so far to count as improved, for patience. ``improvement = 0.001``"""
    bytes: Annotated[int, BeforeValidator(read_bytes), Field(ge=0)] = 0
    """The run stops when its clients have up- and downloaded so many coded bytes in training, taken together; 0: it does not.
    ``bytes = "50MB"``
    """
    seconds: float = Field(0.0, ge=0)
    """The run stops after so many seconds; 0: it does not. ``seconds = 3600.0``"""
    simulated_seconds: float = Field(0.0, ge=0)
    """The run stops after so many seconds by the virtual clock; 0: it does not. ``simulated_seconds = 86400.0``"""

    @property
    def on(self) -> bool:
        """Whether anything may stop the run."""
        return bool(self.looks or self.bytes or self.seconds or self.simulated_seconds)

    @property
    def looks(self) -> bool:
        """Whether it depends on what is measured."""
        return bool(self.accuracy or self.patience)
