"""Going back: a broadcast that nobody can work with is replaced by the last one that somebody could.

One upload within the schema can make a broadcast on which every client's training, or the server's own, ends in numbers that
are not finite. Without a way back each later round would start from it and fail too.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from flwr.app import ConfigRecord, RecordDict

from fedkd.base.errors import Notice, TrainingError
from fedkd.engine.broadcasts import Broadcasts
from fedkd.engine.privacy_ledger import RELEASES
from fedkd.engine.reasons import first_line
from fedkd.engine.received import Received
from fedkd.experiment.algorithm.participation import draw_fault
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.strategy_of_round import strategy_of
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.memory import Memory
from fedkd.knowledge.records import from_records, to_records

#: So many clients must have failed on a broadcast: one alone may have failed for a reason of its own.
FEWEST = 2
CURE = "guard.step_ratio refuses uploads that run away"
_PART, _FACTS = "good", "rollback"


@dataclass(frozen=True)
class State:
    """What a round rests on at the server: the broadcasts, and the memory, whose tensors are replaced and never written to."""

    common: Knowledge
    personal: Mapping[int, Knowledge]
    memory: Mapping[str, Any]


@final
class Rollback:
    """Keeps the state at the beginning of the last round in which somebody could work with what was broadcast."""

    def __init__(self, experiment: Experiment, server: Server, broadcasts: Broadcasts) -> None:
        self._experiment, self._server, self._broadcasts = experiment, server, broadcasts
        self._good: State | None = None
        self._doubtful = False  # whether the broadcast is a newer one, with which nobody has worked yet
        self._failed: set[int] = set()  # who could not

    def enter(self, received: Received, row: dict[str, Any]) -> None:
        """Find out from an exchange's replies whether clients could work with the broadcast; go back if none could.

        Simulated faults, and whoever is late, say nothing of it.
        """
        if received.uploads:
            self._doubtful, self._failed = False, set()
            if not self._server.exchange:
                self._server.flush()
                self._good = State(self._broadcasts.common, dict(self._broadcasts.personal), dict(self._server.memory))
        elif self._doubtful and not received.late:
            failed = {c: why for c, why in received.failed.items() if not draw_fault(self._experiment, self._server.round, c)}
            self._failed |= failed.keys()
            if failed and len(self._failed) >= min(FEWEST, self._experiment.data.clients):
                client, reason = min(failed.items())
                why = f"every client failed on the last broadcast (client {client}: {first_line(reason)})"
                self._go_back(why, row)

    def answer_to(self, uploads: Mapping[int, Knowledge], row: dict[str, Any]) -> Knowledge | Mapping[int, Knowledge] | None:
        """Run the server's half of the strategy. If it ends in numbers that are not finite, go back, and give None."""
        try:
            strategy = strategy_of(self._experiment, self._server.round)
            answer = strategy.server_update(self._server, uploads)
        except TrainingError as error:
            self._go_back(f"the server could not work with the uploads ({first_line(str(error))})", row)
            return None
        self._doubtful = True
        return answer

    def _go_back(self, why: str, row: dict[str, Any]) -> None:
        if self._good is not None:
            released = {key: value for key, value in self._server.memory.items() if key.startswith(RELEASES)}
            self._broadcasts.common, self._broadcasts.personal = self._good.common, dict(self._good.personal)
            self._server.release()
            self._server.memory = Memory({**self._good.memory, **released})  # what has been sent stays sent
            if (again := self._experiment.strategy.broadcast_again(self._server)) is not None:
                self._broadcasts.announce(again)
        self._doubtful, self._failed = False, set()
        row |= {"rolled_back": True, "rolled_back_reason": why}
        warnings.warn(f"round {self._server.round}: {why}: back to the last good broadcast ({CURE})", Notice, stacklevel=2)

    def save(self) -> dict[str, RecordDict]:
        """For a checkpoint."""
        facts = ConfigRecord({"doubtful": self._doubtful, "failed": ",".join(map(str, sorted(self._failed)))})
        parts = {_FACTS: RecordDict({_FACTS: facts})}
        if self._good is not None:
            Memory(self._good.memory).write(memory := RecordDict())
            parts |= {f"{_PART}/server": memory, f"{_PART}/common": to_records(self._good.common)}
            parts |= {f"{_PART}/personal/{client}": to_records(known) for client, known in self._good.personal.items()}
        return parts

    def restore(self, parts: Mapping[str, RecordDict]) -> None:
        """From a checkpoint's parts."""
        facts = parts[_FACTS].config_records[_FACTS]
        self._doubtful = bool(facts["doubtful"])
        self._failed = {int(client) for client in str(facts["failed"]).split(",") if client}
        if f"{_PART}/common" in parts:
            mine = f"{_PART}/personal/"
            personal = {int(key.removeprefix(mine)): from_records(parts[key]) for key in parts if key.startswith(mine)}
            memory = dict(Memory.read(parts[f"{_PART}/server"]))
            self._good = State(from_records(parts[f"{_PART}/common"]), personal, memory)
