"""Pace: who of an exchange's clients is in time, and, where there is a virtual clock, how long it all takes."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import final

from flwr.app import ConfigRecord, RecordDict

from fedkd.base.errors import Notice
from fedkd.engine.clock.clock import Clock, Trip
from fedkd.engine.received import Received
from fedkd.engine.round_metrics import RoundMetrics
from fedkd.experiment.algorithm.counted_work import CountedWork
from fedkd.experiment.algorithm.participation import draw_in_time
from fedkd.experiment.experiment import Experiment

_NOW = "simulated_seconds"


class Pace(ABC):
    """What says whose upload counts in its exchange."""

    #: Simulated seconds since the run began; infinite where there is no clock, so that whatever came has come.
    now = math.inf

    def begin(self, metrics: RoundMetrics) -> None:  # noqa: B027  # most have nothing to begin
        """A round begins."""

    @abstractmethod
    def in_time(self, received: Received, asked: Collection[int], metrics: RoundMetrics, exchange: int) -> set[int]:
        """Of the clients asked: whose upload counts now, if it came at all."""

    def arrivals(self) -> Mapping[int, float]:
        """When the uploads of the last exchange come, by client, where there is a clock."""
        return {}

    def pass_until(self, moment: float, metrics: RoundMetrics) -> None:  # noqa: B027
        """Nobody is asked, and the server waits for an upload that is on its way."""

    @contextmanager
    def at_server(self, metrics: RoundMetrics) -> Iterator[None]:
        """Around the server's half."""
        yield

    def save(self) -> dict[str, RecordDict]:
        """What the clock says, for a checkpoint."""
        return {}

    def restore(self, parts: Mapping[str, RecordDict]) -> None:  # noqa: B027
        """From a checkpoint's parts."""


@final
class AsTheyCome(Pace):
    """In a deployment: whatever came before the timeout counts."""

    def in_time(self, received: Received, asked: Collection[int], metrics: RoundMetrics, exchange: int) -> set[int]:
        """All."""
        return set(asked)


@final
class Drawn(Pace):
    """In a simulation without a clock: the seed draws who is late, by ``faults.straggle`` and ``enough``."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment

    def in_time(self, received: Received, asked: Collection[int], metrics: RoundMetrics, exchange: int) -> set[int]:
        """The first ``enough`` of a seeded order, stragglers left out."""
        return draw_in_time(self._experiment, int(metrics.row["round"]), exchange, list(asked))


@final
class Clocked(Pace):
    """In a simulation with a clock: who comes first by the clock."""

    def __init__(self, experiment: Experiment) -> None:
        self._clock = Clock(experiment)
        self.now = 0.0
        self._arrivals: dict[int, float] = {}

    def begin(self, metrics: RoundMetrics) -> None:
        """The clock of a round starts at 0."""
        metrics.row["simulated_seconds"] = 0.0

    def in_time(self, received: Received, asked: Collection[int], metrics: RoundMetrics, exchange: int) -> set[int]:
        """The first ``enough`` by simulated arrival, within the deadline. The round takes so much longer."""
        trips = {
            client: self.trip(client, received, metrics)
            for client in asked
            if client in received.traffic or client in received.failed
        }
        for client, trip in trips.items():
            metrics.time(client, self.device(client), trip, received.flops.get(client, 0.0))
        in_time, seconds = self._clock.wait(trips, asked)
        self._arrivals = {client: self.now + trip.seconds for client, trip in trips.items()}
        self._pass(seconds, metrics)
        return in_time

    def device(self, client: int) -> str:
        """The name of a client's device."""
        return self._clock.name(client)

    def trip(self, client: int, received: Received, metrics: RoundMetrics) -> Trip:
        """The time of a client that was sent a message. Of one that failed only the messages' time is known."""
        up = received.traffic[client].coded if client in received.traffic else None
        down = metrics.sent[client].coded
        return self._clock.trip(client, down=down, flops=received.flops.get(client, 0.0), up=up)

    def arrivals(self) -> Mapping[int, float]:
        """As the devices have it."""
        return self._arrivals

    def pass_until(self, moment: float, metrics: RoundMetrics) -> None:
        """The round takes so much longer."""
        self._pass(max(0.0, moment - self.now), metrics)

    @contextmanager
    def at_server(self, metrics: RoundMetrics) -> Iterator[None]:
        """Count the server's work, where it takes time."""
        if not self._clock.times_server:
            yield
            return
        with CountedWork() as work:
            yield
        self._pass(self._clock.of_server(work.flops), metrics)

    def _pass(self, seconds: float, metrics: RoundMetrics) -> None:
        self.now += seconds
        metrics.row["simulated_seconds"] += seconds

    def save(self) -> dict[str, RecordDict]:
        """Simulated seconds so far."""
        return {_NOW: RecordDict({_NOW: ConfigRecord({_NOW: self.now})})}

    def restore(self, parts: Mapping[str, RecordDict]) -> None:
        """From a checkpoint's parts."""
        self.now = float(str(parts[_NOW].config_records[_NOW][_NOW]))


def pace_of(experiment: Experiment, *, simulated: bool) -> Pace:
    """How the exchanges of a run are timed. A Notice tells that a deployment's clients take real time.

    Raises InputError where devices cannot be told.
    """
    if experiment.clock.on and simulated:
        return Clocked(experiment)
    if experiment.clock.on:
        text = "[clock] does nothing here: the clients are nodes of a deployment and take real time (timeout says how much)"
        warnings.warn(text, Notice, stacklevel=2)
    return Drawn(experiment) if simulated else AsTheyCome()
