"""Buffered: training without a cohort. Clients are at work all the time; a round is a buffer of uploads, in order of arrival.

After Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation (FedBuff), AISTATS 2022, arXiv 2106.06639.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import final

import torch
from flwr.app import RecordDict

from fedkd.base.randomness import derive, generator, seeded, streams_aside, torch_threads
from fedkd.engine.broadcasts import Broadcasts
from fedkd.engine.clock.flight import Flight, restore_flights, save_flights
from fedkd.engine.clock.stale import discount, rebased, weighed
from fedkd.engine.guard import guard_of
from fedkd.engine.pace import Clocked
from fedkd.engine.received import Received, Traffic
from fedkd.engine.round_metrics import RoundMetrics
from fedkd.engine.training_round import TrainingRound
from fedkd.engine.transport import Transport
from fedkd.experiment.algorithm.participation import draw_fault
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.experiment import Experiment
from fedkd.knowledge.knowledge import Knowledge


@final
class Buffered(TrainingRound):
    """Who is free gets the newest broadcast and trains; the server waits for no one in particular.

    A client is free if it is not at work and has not come in in this round, so that nobody trains on one broadcast twice. Of
    the free ones a seeded order says who is next. Whoever will depart in a round is known before any of its uploads come in:
    all of them get the same broadcast, so they are computed together, however late they depart by the clock.
    """

    def __init__(
        self, experiment: Experiment, server: Server, transport: Transport, broadcasts: Broadcasts, clock: Clocked
    ) -> None:
        super().__init__(experiment, server, transport, broadcasts, clock)
        self._clock = clock
        self._buffer = experiment.asynchrony.buffer
        self._concurrency = experiment.asynchrony.concurrency or experiment.data.clients
        self._flights: dict[int, Flight] = {}

    def carry_out(self, metrics: RoundMetrics) -> None:
        """Take in uploads until the buffer is full, or nobody is at work and nobody free."""
        landed: list[Flight] = []
        ready: list[Flight] = []
        seen = set[int]()  # who came in, failed or dropped out in this round
        while (missing := self._buffer - sum(flight.upload is not None for flight in landed)) > 0:
            places = self._concurrency - len(self._flights)
            if places > len(ready):
                chosen = self._choose(places + missing - 1 - len(ready), seen | {flight.client for flight in ready}, metrics)
                seen |= {client for client, goes in chosen.items() if not goes}
                ready += self._compute([client for client, goes in chosen.items() if goes], metrics)
            for flight in ready[:places]:
                self._flights[flight.client] = replace(flight, arrives=self._clock.now + flight.trip.seconds)
            ready = ready[places:]
            if not self._flights:
                break
            first = min(self._flights.values(), key=lambda flight: (flight.arrives, flight.client))
            landed.append(self._flights.pop(first.client))
            seen.add(first.client)
            self._clock.pass_until(first.arrives, metrics)
        self._take_in(landed, metrics)

    def _choose(self, most: int, seen: set[int], metrics: RoundMetrics) -> dict[int, bool]:
        """The free clients that are next, at most so many; and before them those that drop out -> whether they go."""
        rng = generator(self._experiment.seed, self._server.round, "async")
        order = torch.randperm(self._experiment.data.clients, generator=rng)
        chosen: dict[int, bool] = {}
        for client in order.tolist():
            if client in self._flights or client in seen:
                continue
            if sum(chosen.values()) == most:
                break
            chosen[client] = draw_fault(self._experiment, self._server.round, client) != "dropout"
            if not chosen[client]:
                metrics.client(client)
                metrics.fail(client, "dropped out (simulated)")
        return chosen

    def _compute(self, clients: list[int], metrics: RoundMetrics) -> list[Flight]:
        """Have these clients train on the newest broadcast: their flights, in this order, none of which has departed."""
        if not clients:
            return []
        round = self._server.round
        messages = self._ask(clients, metrics, exchange=0, persist=True)
        with streams_aside():
            replies = self._transport.collect(messages, len(messages), round=round, exchange=0)
        with torch_threads(self._experiment.engine.num_cpus), seeded(derive(self._experiment.seed, round, "read", "torch")):
            received = self._transport.read(replies.current, clients, self._guard(), round=round, exchange=0)
        self._transport.hold(received, round=round, exchange=0)
        self._transport.settle(clients, received.uploads)
        sent = {id(each): self._transport.as_received(each) for each in map(self._broadcasts.to, clients)}
        return [
            Flight(
                client,
                round,
                sent[id(self._broadcasts.to(client))],
                self._clock.trip(client, received, metrics),
                received.flops.get(client, 0.0),
                received.traffic.get(client, Traffic()),
                received.uploads.get(client),
                "" if client in received.uploads else received.failed.get(client, metrics.no_reply),
            )
            for client in clients
        ]

    def _take_in(self, landed: list[Flight], metrics: RoundMetrics) -> None:
        """Let the server work with what has come in, by client id."""
        round = self._server.round
        seed = derive(self._experiment.seed, round, 0, "server", "torch")
        came = {flight.client: flight for flight in sorted(landed, key=lambda flight: flight.client)}
        received = Received(
            uploads={client: flight.upload for client, flight in came.items() if flight.upload is not None},
            failed={client: flight.failure for client, flight in came.items() if flight.failure},
            traffic={client: flight.traffic for client, flight in came.items()},
        )
        for client, flight in came.items():
            metrics.client(client)["status"] = "ok"
            metrics.time(client, self._clock.device(client), flight.trip, flight.flops)
        with torch_threads(self._experiment.engine.num_cpus), seeded(seed):
            guard = guard_of(self._experiment.strategy, self._server, simulated=True, sent_to=lambda client: came[client].sent)
            self._transport.leave_out(received, guard)
            received.uploads = {client: self._as_of_now(came[client], upload) for client, upload in received.uploads.items()}
            self._update(received, received.uploads, came, metrics)
        ages = {client: round - came[client].round for client in received.uploads}
        for client, age in ages.items():
            metrics.client(client)["upload_staleness"] = age
        if ages:
            metrics.row |= {"upload_staleness": sum(ages.values()) / len(ages), "oldest_upload": max(ages.values())}

    def _as_of_now(self, flight: Flight, upload: Knowledge) -> Knowledge:
        """An upload as it counts now: of a stale one a part, of its step from the newest broadcast or of its weight."""
        asynchrony, age = self._experiment.asynchrony, self._server.round - flight.round
        share = discount(age, asynchrony.staleness)
        step = None
        if age and asynchrony.rebase:
            schema = self._experiment.strategy.upload_schema(self._server, flight.client)
            step = rebased(upload, flight.sent, self._broadcasts.to(flight.client), schema, share)
        if step is not None:
            return step
        return weighed(upload, share) if age else upload

    def save(self) -> dict[str, RecordDict]:
        """Those that are at work too."""
        return {**super().save(), **save_flights(self._flights.values())}

    def restore(self, parts: Mapping[str, RecordDict]) -> None:
        """Those that are at work too."""
        super().restore(parts)
        self._flights = {flight.client: flight for flight in restore_flights(parts)}
