"""Clock: how long an exchange takes, who of its clients is in time, and what each client's time goes into."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import final

from fedkd.engine.clock.devices import devices_of
from fedkd.experiment.algorithm.clock_section import Device
from fedkd.experiment.algorithm.participation import enough_of
from fedkd.experiment.experiment import Experiment


@final
@dataclass(frozen=True)
class Trip:
    """What one client does in an exchange: the broadcast comes down, it computes, and its upload goes up. In seconds.

    >>> Trip.of(Device(gflops=2, up=8, down=16, latency=0.5), down=4_000_000, flops=6_000_000_000, up=1_000_000)
    Trip(down=2.5, compute=3.0, up=1.5)
    """

    down: float
    compute: float
    up: float

    @classmethod
    def of(cls, device: Device, *, down: int, flops: float, up: int | None) -> Trip:
        """A trip of so many bytes and operations. Without an upload: a client that failed is heard of, whatever it did."""
        return cls(
            down=device.latency + down * 8e-6 / device.down,
            compute=flops * 1e-9 / device.gflops,
            up=device.latency + (up or 0) * 8e-6 / device.up,
        )

    @property
    def seconds(self) -> float:
        """From the broadcast's leaving to the upload's coming."""
        return self.down + self.compute + self.up


def wait_for(trips: Mapping[int, float], enough: int, deadline: float) -> tuple[set[int], float]:
    """Whose upload is in time, and how long the wait is: until enough have come, or the deadline (0: none) is over.

    Of two that come at one moment the client of the lower id is first.

    >>> wait_for({0: 5.0, 1: 2.0, 2: 9.0}, enough=2, deadline=0.0)
    ({0, 1}, 5.0)
    >>> wait_for({0: 5.0, 1: 2.0, 2: 9.0}, enough=3, deadline=6.0)
    ({0, 1}, 6.0)
    """
    order = sorted((seconds, client) for client, seconds in trips.items())
    first = [(seconds, client) for seconds, client in order if not deadline or seconds <= deadline][:enough]
    last = max((seconds for seconds, _ in first), default=0.0)
    return {client for _, client in first}, deadline if deadline and len(first) < enough else last


@final
class Clock:
    """The devices of a run, and the time that its exchanges take on them."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._devices = devices_of(experiment)

    def name(self, client: int) -> str:
        """The name of a client's device."""
        return self._devices[client][0]

    def trip(self, client: int, *, down: int, flops: float, up: int | None) -> Trip:
        """The trip of a client with so many bytes and operations."""
        return Trip.of(self._devices[client][1], down=down, flops=flops, up=up)

    def wait(self, trips: Mapping[int, Trip], asked: Collection[int]) -> tuple[set[int], float]:
        """Of the clients asked: who is in time, and the seconds until the server goes on.

        Who never answers (``timeout``) has no trip: it is waited for until the deadline, if there is one.
        """
        enough, deadline = enough_of(self._experiment, len(asked)), self._experiment.clock.deadline
        return wait_for({client: trip.seconds for client, trip in trips.items()}, enough, deadline)

    @property
    def times_server(self) -> bool:
        """Whether the server's half takes time."""
        return self._experiment.clock.server_gflops > 0

    def of_server(self, flops: int) -> float:
        """The seconds of so many operations at the server."""
        return flops * 1e-9 / self._experiment.clock.server_gflops
