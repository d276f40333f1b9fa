"""The metrics of one round: its row, a line for each client, and the bytes of every direction."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from fedkd.engine.clock.clock import Trip
from fedkd.engine.reasons import first_line
from fedkd.engine.received import Received, Traffic
from fedkd.knowledge.knowledge import Knowledge
from fedkd.results.uploads import KeptExchange

UP = ("bytes_up", "coded_bytes_up", "wire_bytes_up")
DOWN = ("bytes_down", "coded_bytes_down", "wire_bytes_down")


class RoundMetrics:
    """Filled while a round goes on, and closed at its end."""

    def __init__(self, round: int, timeout: float, spending: Callable[[], Mapping[str, float]] = dict) -> None:
        self._began, self._timeout = time.perf_counter(), timeout
        self._spending, self._spent_before = spending, spending()
        self.row: dict[str, Any] = {"round": round}
        self.clients: dict[int, dict[str, Any]] = {}
        #: Bytes of messages to clients, whoever answered; of evaluation, in both directions.
        self.down, self.evaluation = dict[int, Traffic](), dict[int, Traffic]()
        #: Bytes of the messages of the last exchange.
        self.sent: Mapping[int, Traffic] = {}
        #: For the picture of the round: features and labels of some test samples. In no row.
        self.representations: Mapping[str, Tensor] = {}
        #: Which client's answers on public samples carried which class into the teacher, and where clients followed it.
        self.flow: dict[str, Any] = {}
        #: Uploads and broadcasts of each exchange, where the experiment keeps uploads. In no row.
        self.uploads: list[KeptExchange] = []

    @property
    def no_reply(self) -> str:
        """Why a client that was asked is late, of which nothing was heard."""
        return f"no reply within {self._timeout:g} s"

    def client(self, client: int) -> dict[str, Any]:
        """The line of a client."""
        return self.clients.setdefault(client, {"client": client})

    def enlist(self, cohort: list[int]) -> None:
        """Who takes part in this round."""
        self.clients = {client: {"client": client, "status": "ok"} for client in cohort}

    def fail(self, client: int, reason: str) -> None:
        """This client is lost for this round."""
        self.clients[client] |= {"status": "failed", "reason": reason}

    def miss(self, client: int, reason: str) -> None:
        """This client does not take part in this round, as it is late with another."""
        self.clients[client] |= {"status": "late", "reason": reason}

    def send(self, broadcasts: Mapping[int, Traffic]) -> None:
        """The bytes of an exchange's messages to clients."""
        self.sent = broadcasts
        for client, traffic in broadcasts.items():
            self.down.setdefault(client, Traffic()).add(traffic.raw, traffic.coded, traffic.wire)

    def time(self, client: int, device: str, trip: Trip, flops: float) -> None:
        """What a client's time goes into, by a virtual clock; of several exchanges in a round the sums."""
        line = self.clients[client]
        spent = {"compute_seconds": trip.compute, "up_seconds": trip.up, "down_seconds": trip.down, "flops": flops}
        line |= {"device": device, "simulated_seconds": line.get("simulated_seconds", 0.0) + trip.seconds}
        line |= {key: line.get(key, 0.0) + value for key, value in spent.items()}

    def count(self, uploads: Mapping[int, Traffic]) -> None:
        """The bytes of uploads, whether they are used or not."""
        self._book(UP, uploads)

    def _book(self, keys: tuple[str, str, str], traffic: Mapping[int, Traffic]) -> None:
        for client, of_client in traffic.items():
            row = self.client(client)
            for key, size in zip(keys, (of_client.raw, of_client.coded, of_client.wire), strict=True):
                row[key] = row.get(key, 0) + size

    def enter(self, received: Received) -> None:
        """What came up in one exchange, what did not come, and why.

        Of several exchanges in a round, a client's line has the last metrics, but the seconds of all.
        """
        self.count(received.traffic)
        for client, upload in received.uploads.items():
            before = self.clients[client].get("seconds", 0.0)
            seconds = {"seconds": before + upload.metrics["seconds"]} if "seconds" in upload.metrics else {}
            self.clients[client] |= {"weight": upload.weight, **upload.metrics, **seconds}
        for client, reason in received.failed.items():
            self.fail(client, reason)
        for client in received.late:
            why = "its upload came late" if client in received.late_uploads else self.no_reply
            self.clients[client] |= {"status": "late", "reason": why}
        self.row |= mean_metrics(received.uploads)

    def spent(self) -> dict[str, float]:
        """What the round's training has taken so far, by the keys of a row."""
        up = sum(line.get("coded_bytes_up", 0) for line in self.clients.values())
        down, simulated = sum(traffic.coded for traffic in self.down.values()), self.row.get("simulated_seconds", 0.0)
        seconds = {"seconds": time.perf_counter() - self._began, "simulated_seconds": simulated}
        return {"coded_bytes_up": up, "coded_bytes_down": down, **seconds}

    def close(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The row of the round, and the clients' lines."""
        self._book(DOWN, self.down)
        clients = [{"round": self.row["round"], **self.clients[client]} for client in sorted(self.clients)]
        count = {status: sum(row.get("status") == status for row in clients) for status in ("ok", "late", "failed")}
        row = {
            **self.row,
            **{key: sum(row.get(key, 0) for row in clients) for key in UP + DOWN},
            "evaluation_bytes": sum(traffic.wire for traffic in self.evaluation.values()),
            **{f"clients_{status}": number for status, number in count.items()},
        }
        if reasons := {str(row["client"]): first_line(row["reason"]) for row in clients if "reason" in row}:
            row["failures"] = reasons
        row["seconds"] = time.perf_counter() - self._began
        row |= {key: until_now - self._spent_before[key] for key, until_now in self._spending().items()}
        return row, clients


def mean_metrics(uploads: Mapping[int, Knowledge]) -> dict[str, float]:
    """The weighted mean of what clients report, by name; without their seconds, which stand in their own lines."""
    totals: dict[str, tuple[float, float]] = {}
    for upload in uploads.values():
        for key, value in upload.metrics.items():
            before = totals.get(key, (0.0, 0.0))
            totals[key] = (before[0] + upload.weight * value, before[1] + upload.weight)
    return {key: total / weight for key, (total, weight) in totals.items() if key != "seconds"}
