"""Whether Ray itself still lives: without two of its processes Ray ends the caller's, without a word."""

from __future__ import annotations

import re
import socket
import time
from typing import final

import ray

from fedkd.base.errors import RunFailed

SECOND_KNOCK_SECONDS = 2.0  # a network may fail for a moment


@final
class Lifeline:
    """Knocks at the doors of Ray's GCS (the cluster's head) and of the raylet that this process belongs to."""

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        node = next((node for node in ray.nodes() if node["NodeID"] == context.get_node_id()), None)
        doors = {"GCS": context.gcs_address}
        if node is not None:
            doors["raylet"] = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
        #: Not those that were closed from the start: through ``ray://`` the cluster lies behind another one.
        self._doors = {name: address for name, address in doors.items() if _is_open(address)}
        self._checked = time.monotonic()

    def check(self, every: float = 0.0) -> None:
        """Raise RunFailed if one of them has died; nothing within ``every`` seconds of the last check."""
        if time.monotonic() - self._checked < every:
            return
        dead = self._closed()
        if dead:
            time.sleep(SECOND_KNOCK_SECONDS)
            dead = self._closed()
        self._checked = time.monotonic()
        if dead:
            raise RunFailed(
                f"Ray's {dead[0]} at {self._doors[dead[0]]} has died, as it does when memory runs out: "
                "lower engine.actors; a run with a directory can be resumed"
            )

    def _closed(self) -> list[str]:
        return [name for name, address in self._doors.items() if not _is_open(address)]


def _is_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except OSError:
        return False
    return True


def exit_of(death: Exception) -> str:
    """What Ray knows of a worker's end, in one line."""
    detail = re.search(r"exit detail: (.*?)\s*(?:Some common causes|$)", str(death))
    return (detail[1] if detail else str(death).splitlines()[0]).rstrip(".")
