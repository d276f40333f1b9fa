"""Ray actors for the seats of a grid: started before there is an app, and bound to one when it is there."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import ray
from flwr.clientapp import ClientApp

from fedkd.base.compiler import SHORT_SECONDS
from fedkd.base.errors import InputError
from fedkd.grids.seat import Seat
from fedkd.grids.worker import ClientWorker


@final
class Actors:
    """Makes actors alike, each with these CPUs and GPUs, which import these modules."""

    def __init__(self, num_cpus: float, num_gpus: float, imports: Sequence[str]) -> None:
        self._gpus, self._imports = num_gpus > 0, tuple(imports)
        # Ray keeps a record of each task for its pages, which nobody looks at: that takes as long as a small exchange.
        self._options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "enable_task_events": False}
        self._bound_to: tuple[Any, int, Mapping[str, Any]] = (None, 0, {})
        self._least = math.inf  # the least time that clients have had

    def hire(self, index: int) -> Seat:
        """A seat whose actor is being started."""
        worker = ray.remote(ClientWorker).options(**self._options)
        return Seat(index, worker.remote(self._imports, self._gpus))

    def take(self, client_app: ClientApp, nodes: int, run_config: Mapping[str, Any]) -> None:
        """What seats are bound to from now on. Raises InputError where the app cannot travel."""
        try:
            self._bound_to = ray.put(client_app), nodes, run_config
        except TypeError as error:
            what = str(error.__cause__ or error).splitlines()[0]
            cure = "make that object in the client's function"
            raise InputError(f"the ClientApp cannot travel to Ray ({what}): {cure}") from None

    def bind(self, seat: Seat) -> None:
        """Give an actor the app."""
        seat.calls[seat.actor.begin.remote(*self._bound_to, self._least)] = []
        seat.since = time.monotonic()

    def make_ready(self, seats: Iterable[Seat], timeout: float | None) -> None:
        """Have them load what clients would else load in their time, if they have never had so little of it."""
        if timeout is not None and timeout < min(self._least, SHORT_SECONDS):
            self._least = timeout
            for seat in seats:
                seat.calls[seat.actor.be_ready_for.remote(timeout)] = []
                seat.since = time.monotonic() + SHORT_SECONDS  # for so long it is not at work on clients
