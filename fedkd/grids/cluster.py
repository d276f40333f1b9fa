"""Ray's cluster: joined where there is one, else started on this machine and stopped again; quietly in both cases."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from fedkd.errors import InputError


@contextmanager
def connected(address: str, actors: int, num_cpus: float, num_gpus: float) -> Iterator[None]:
    """A Ray cluster that has room for ``actors``, each with these CPUs and GPUs.

    A Ray that the caller initialised is used and left running. One that is started here may have more logical CPUs than
    the machine has cores. Raises InputError where there are too few CPUs or GPUs.
    """
    if ray.is_initialized():
        _check_room(actors, num_cpus, num_gpus)
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _start(address or os.environ.get("RAY_ADDRESS", ""), max(os.cpu_count() or 1, -int(-actors * num_cpus // 1)))
        _check_room(actors, num_cpus, num_gpus)
        yield
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():  # Ray has set its own
            signal.signal(signal.SIGTERM, handler)


def _start(address: str, num_cpus: int) -> None:
    where: dict[str, Any] = {"address": address} if address else {"address": "local", "num_cpus": num_cpus}
    if not address:
        where["include_dashboard"] = False
    with warnings.catch_warnings(), _environment(RAY_USAGE_STATS_ENABLED="0"):
        warnings.simplefilter("ignore")
        ray.init(**where, log_to_driver=False, configure_logging=False)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _check_room(actors: int, num_cpus: float, num_gpus: float) -> None:
    """Ray would wait for ever for resources that do not exist."""
    resources = ray.cluster_resources()
    for kind, each, setting in (("CPU", num_cpus, "num_cpus"), ("GPU", num_gpus, "num_gpus")):
        there = resources.get(kind, 0.0)
        if each and actors > _fitting(there, each):
            raise InputError(
                f"{actors} actors with {setting} = {each:g} do not fit: the Ray cluster has {there:g} {kind}s; "
                f"lower engine.actors or engine.{setting}"
            )


def _fitting(there: float, each: float) -> int:
    """How many actors fit; a share of a device is a share of one device.

    >>> _fitting(2, 0.6), _fitting(1, 0.5), _fitting(4, 2), _fitting(0, 0.1)
    (2, 2, 2, 0)
    """
    if each < 1:
        return int(there) * int(1 / each + 1e-9)
    return int(there / each + 1e-9)
