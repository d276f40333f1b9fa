"""Flight: the work of one client that has begun and not yet come in, kept from round to round and in checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import final

from flwr.app import ConfigRecord, RecordDict

from fedkd.engine.clock.clock import Trip
from fedkd.engine.received import Traffic
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.records import from_records, to_records

_FACTS, _UPLOAD, _SENT = "flight_facts", "flight_upload/", "flight_sent/"


@final
@dataclass(frozen=True)
class Flight:
    """What a client was sent in a round, what came of it, and when it comes in.

    Args:
        client: its id.
        round: in which it began.
        sent: the broadcast, as the client read it.
        trip: what its time goes into.
        flops: of its half.
        traffic: bytes of its upload.
        upload: None where it failed.
        failure: why; empty where it did not.
        arrives: the simulated moment, as soon as it has departed.
    """

    client: int
    round: int
    sent: Knowledge
    trip: Trip
    flops: float
    traffic: Traffic = field(default_factory=Traffic)
    upload: Knowledge | None = None
    failure: str = ""
    arrives: float = 0.0


def save_flights(flights: Iterable[Flight]) -> dict[str, RecordDict]:
    """Flights as parts of a checkpoint. A broadcast that several were sent stands there once."""
    parts, facts = dict[str, RecordDict](), RecordDict()
    sent: dict[int, int] = {}
    for flight in flights:
        which = sent.setdefault(id(flight.sent), len(sent))
        parts[f"{_SENT}{which}"] = to_records(flight.sent)
        if flight.upload is not None:
            parts[f"{_UPLOAD}{flight.client}"] = to_records(flight.upload)
        trip, traffic = flight.trip, flight.traffic
        numbers = {"round": flight.round, "sent": which, "flops": flight.flops, "arrives": flight.arrives, **vars(traffic)}
        spent = {"down": trip.down, "compute": trip.compute, "up": trip.up}
        facts[str(flight.client)] = ConfigRecord({**numbers, **spent, "failure": flight.failure})
    return {**parts, _FACTS: facts}


def restore_flights(parts: Mapping[str, RecordDict]) -> list[Flight]:
    """The flights in a checkpoint's parts."""
    sent = {key: from_records(part) for key, part in parts.items() if key.startswith(_SENT)}
    flights = []
    for client, facts in parts[_FACTS].config_records.items():
        numbers = {key: float(str(value)) for key, value in facts.items() if key != "failure"}
        upload = parts.get(f"{_UPLOAD}{client}")
        flights.append(
            Flight(
                int(client),
                int(numbers["round"]),
                sent[f"{_SENT}{int(numbers['sent'])}"],
                Trip(numbers["down"], numbers["compute"], numbers["up"]),
                numbers["flops"],
                Traffic(*(int(numbers[key]) for key in ("raw", "coded", "wire"))),
                None if upload is None else from_records(upload),
                str(facts["failure"]),
                numbers["arrives"],
            )
        )
    return flights
