"""Methods that train on the samples of all clients at one place."""

from __future__ import annotations

from fedkd.base.errors import InputError
from fedkd.data.partition import EACH_ITS_OWN
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.settings import Settings


def check_pooled(strategy: Algorithm, experiment: Settings, cure: str = "take another strategy") -> None:
    """Raise InputError where each client has its own data, which do not leave it."""
    if experiment.data.partition == EACH_ITS_OWN:
        lies = 'with data.partition = "own" they stay at the clients'
        raise InputError(
            f"strategy: {type(strategy).__name__} trains on the samples of all clients at the server, and {lies}: {cure}"
        )
