"""The privacy ledger: how many noised tables each client has released, and what that costs by now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from fedkd.experiment.algorithm.sections import Privacy
from fedkd.experiment.protection import NOISED
from fedkd.knowledge.knowledge import TensorSpec
from fedkd.knowledge.memory import Memory
from fedkd.knowledge.privacy import EVERYTHING_OF_A_CLIENT, gaussian_epsilon

#: In the server's memory: how many tables a client has released, by its id.
RELEASES = "releases/"
#: In every row beside ``epsilon`` and ``delta``: a number without its neighbours says nothing.
EPSILON_OF = f"all uploads so far of the client that sent most; neighbours: {EVERYTHING_OF_A_CLIENT}, replaced"


@final
class PrivacyLedger:
    """Counts releases in the server's memory, so that a resumed run goes on counting."""

    def __init__(self, privacy: Privacy, memory: Memory) -> None:
        self._privacy, self._memory = privacy, memory

    def enter(self, asked: Mapping[int, Mapping[str, TensorSpec]]) -> dict[str, Any]:
        """Count the tables that these clients were asked for; gives epsilon and delta of the client that has released most.

        An upload that was lost counts too: somebody may have seen it; a table without rows tells nothing, and does not. Empty
        before the first release.
        """
        for client, schema in asked.items():
            tables = sum(spec.space == NOISED and spec.raw_bytes > 0 for spec in schema.values())
            key = f"{RELEASES}{client}"
            self._memory[key] = int(self._memory.get(key, 0)) + tables
        most = max((int(self._memory[key]) for key in self._memory if key.startswith(RELEASES)), default=0)
        if not most:
            return {}
        epsilon = gaussian_epsilon(self._privacy.noise_multiplier, most, self._privacy.delta)
        return {"epsilon": epsilon, "delta": self._privacy.delta, "epsilon_of": EPSILON_OF}
