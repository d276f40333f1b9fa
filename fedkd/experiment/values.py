"""The values of an experiment, before they are held against each other."""

from __future__ import annotations

from pydantic import Field

from fedkd.experiment import registry
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.settings import Settings


class ExperimentValues(Settings):
    """The settings and the strategy: what the checks of a whole experiment look at, and ``Experiment`` adds to."""

    strategy: Algorithm = Field(default_factory=lambda: registry.load("fedavg")())
    """The algorithm: its name, and beside it its own keys. A name alone will do.
    ``strategy = {name = "fedx", temperature = 0.1}``
    """
