"""Ray's cluster: joined where there is one, else started on this machine and stopped again; quietly in both cases."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import ray
from ray._private import utils as ray_utils
from ray._private.node import Node

from fedkd.base.errors import InputError

#: How long a cluster that is named may take to answer, in seconds; Ray itself would try for minutes.
ANSWER_SECONDS = 10.0

#: What Ray's start calls for each, and what is called in its place.
_WATCHERS: tuple[tuple[Any, str, Any], ...] = (
    (Node, "start_monitor", lambda node: None),
    (Node, "start_log_monitor", lambda node: None),
    (ray_utils, "get_dashboard_dependency_error", lambda: ImportError("not wanted")),
)


@contextmanager
def connected(address: str, actors: int, num_cpus: float, num_gpus: float) -> Iterator[None]:
    """A Ray cluster that has room for ``actors``, each with these CPUs and GPUs.

    A Ray that the caller initialised is used and left running. One that is started here may have more logical CPUs than
    the machine has cores. Raises InputError where there are too few CPUs or GPUs, or no Ray at ``address``.
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
    if address:
        check_answers(address)
    else:
        keep_token_out_of_home()
    # Ray would say at length that its clusters have a token.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    quiet = _environment(RAY_USAGE_STATS_ENABLED="0")
    with warnings.catch_warnings(), quiet, without_watchers(), without_dashboard() as no_dashboard:
        warnings.simplefilter("ignore")
        try:
            ray.init(**where, **({} if address else no_dashboard), log_to_driver=False, configure_logging=False)
        except (ConnectionError, SystemExit) as error:  # Ray ends the process where a cluster is gone
            raise _no_ray(address, str(error).splitlines()[0]) from None


def check_answers(address: str) -> None:
    """InputError unless something that speaks Ray's protocol, gRPC, answers at ``host:port`` or ``ray://host:port``."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # "auto": Ray looks for the cluster of this machine
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS):
            pass
        if os.environ.get("RAY_USE_TLS", "0") not in ("1", "true"):
            with grpc.insecure_channel(f"{host}:{port}") as channel:
                grpc.channel_ready_future(channel).result(timeout=ANSWER_SECONDS)
    except OSError as error:
        raise _no_ray(address, error.strerror or str(error)) from None
    except grpc.FutureTimeoutError:
        raise _no_ray(address, "what answers there is not Ray") from None


def _no_ray(address: str, reason: str) -> InputError:
    cure = "start one with `ray start --head`, or leave the address out for a Ray on this machine alone"
    return InputError(f"engine.address: no Ray cluster at {address!r} ({reason}): {cure}")


def keep_token_out_of_home() -> None:
    """From 2.60 on Ray writes a token for its own clusters into the user's home, unless it finds one: give it one here.

    It stays in this process's environment, as Ray keeps it too: a later cluster of this process has to have the same.
    """
    if not os.environ.get("RAY_AUTH_TOKEN_PATH") and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextmanager
def without_dashboard() -> Iterator[dict[str, Any]]:
    """Arguments of ``ray.init`` with which no dashboard process starts, not even the one that is left of it without pages.

    With usage reports off, that one still asks the metadata servers of three clouds where it is (http://169.254.169.254), for
    a report that is never made. Ray does without it where it cannot have its port, as the one that is taken here.
    """
    log = logging.getLogger("ray._private.services")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        level = log.level
        log.setLevel(logging.CRITICAL)  # that the port is taken is no news
        try:
            yield {"include_dashboard": False, "dashboard_host": "127.0.0.1", "dashboard_port": taken.getsockname()[1]}
        finally:
            log.setLevel(level)


@contextmanager
def without_watchers() -> Iterator[None]:
    """A Ray that is started in the block has no autoscaler's monitor, no monitor of log files, and agents without pages.

    Nothing here reads what they tell, and they take 2 s of processor time while workers wait to start. ``ray start`` has
    options for the first two, ``ray.init`` has not; for the last Ray looks whether what pages need can be imported.
    """
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in _WATCHERS if hasattr(owner, name)]
    try:
        for owner, name, nothing in _WATCHERS:
            if hasattr(owner, name):
                setattr(owner, name, nothing)
        yield
    finally:
        for owner, name, own in before:
            setattr(owner, name, own)


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
