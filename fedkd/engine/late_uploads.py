"""Late uploads: dropped, or kept for the next rounds until they are too old."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

from flwr.app import ConfigRecord, RecordDict

from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.records import from_records, to_records

_ARRIVALS = "late_arrivals"
_NO_CLOCK: Mapping[int, float] = {}


@final
class LateUploads:
    """Uploads that came after their exchange had ended, the newest of each client.

    By a virtual clock each arrives at a moment of its own: until then it is on its way, and its client at work.
    """

    def __init__(self, most_rounds: int) -> None:
        self._most_rounds = most_rounds
        self._uploads: dict[int, Knowledge] = {}
        self._arrivals: dict[int, float] = {}

    def keep(self, uploads: Mapping[int, Knowledge], arrivals: Mapping[int, float] = _NO_CLOCK) -> None:
        """Remember checked uploads that came too late for their own round, and the simulated moments at which they come."""
        if self._most_rounds:
            self._uploads |= uploads
            self._arrivals |= {client: arrivals[client] for client in uploads if client in arrivals}

    def join(self, uploads: Mapping[int, Knowledge], round: int, now: float = math.inf) -> dict[int, Knowledge]:
        """These uploads, and beside them late ones of other clients that are not too old, by client id. Each is used once."""
        arrived = {client: upload for client, upload in self._uploads.items() if self._arrivals.get(client, 0.0) <= now}
        young = {client: upload for client, upload in arrived.items() if self._age(upload, round) <= self._most_rounds}
        self._uploads = {
            client: upload
            for client, upload in self._uploads.items()
            if client not in arrived and self._age(upload, round) < self._most_rounds
        }
        self._arrivals = {client: moment for client, moment in self._arrivals.items() if client in self._uploads}
        return dict(sorted({**young, **uploads}.items()))

    @property
    def on_their_way(self) -> dict[int, float]:
        """Clients that are still at work on an earlier round -> the simulated moment at which their upload comes."""
        return dict(self._arrivals)

    @staticmethod
    def _age(upload: Knowledge, round: int) -> int:
        return round - int(upload.header["round"])

    def save(self) -> dict[str, RecordDict]:
        """For a checkpoint."""
        arrivals = ConfigRecord({str(client): moment for client, moment in self._arrivals.items()})
        parts = {f"late/{client}": to_records(upload) for client, upload in self._uploads.items()}
        return parts | ({_ARRIVALS: RecordDict({_ARRIVALS: arrivals})} if arrivals else {})

    def restore(self, parts: Mapping[str, RecordDict]) -> None:
        """From a checkpoint's parts."""
        late = {int(key.removeprefix("late/")): part for key, part in parts.items() if key.startswith("late/")}
        self._uploads = {client: from_records(part) for client, part in late.items()}
        arrivals = parts[_ARRIVALS].config_records[_ARRIVALS] if _ARRIVALS in parts else {}
        self._arrivals = {int(client): float(str(moment)) for client, moment in arrivals.items()}
