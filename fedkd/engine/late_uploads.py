"""Late uploads: dropped, or kept for the next rounds until they are too old."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from flwr.app import RecordDict

from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.records import from_records, to_records


@final
class LateUploads:
    """Uploads that came after their exchange had ended, the newest of each client."""

    def __init__(self, most_rounds: int) -> None:
        self._most_rounds = most_rounds
        self._uploads: dict[int, Knowledge] = {}

    def keep(self, uploads: Mapping[int, Knowledge]) -> None:
        """Remember checked uploads that came too late for their own round."""
        if self._most_rounds:
            self._uploads |= uploads

    def join(self, uploads: Mapping[int, Knowledge], round: int) -> dict[int, Knowledge]:
        """These uploads, and beside them late ones of other clients that are not too old, by client id. Each is used once."""
        held, self._uploads = self._uploads, {}
        young = {client: upload for client, upload in held.items() if round - int(upload.header["round"]) <= self._most_rounds}
        return dict(sorted({**young, **uploads}.items()))

    def save(self) -> dict[str, RecordDict]:
        """For a checkpoint."""
        return {f"late/{client}": to_records(upload) for client, upload in self._uploads.items()}

    def restore(self, parts: Mapping[str, RecordDict]) -> None:
        """From a checkpoint's parts."""
        late = {int(key.removeprefix("late/")): part for key, part in parts.items() if key.startswith("late/")}
        self._uploads = {client: from_records(part) for client, part in late.items()}
