"""What a run broadcasts: one message for all clients, and messages of their own for some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from fedkd.knowledge.knowledge import Knowledge


@final
@dataclass
class Broadcasts:
    """The knowledge that every client is sent next: its ``personal`` one, else the ``common`` one."""

    common: Knowledge = field(default_factory=Knowledge)
    personal: dict[int, Knowledge] = field(default_factory=dict)

    def to(self, client: int) -> Knowledge:
        """What this client is sent."""
        return self.personal.get(client, self.common)

    def announce(self, answer: Knowledge | Mapping[int, Knowledge]) -> None:
        """Broadcast this from now on. It is copied, as its tensors may belong to nets that go on training."""
        if isinstance(answer, Knowledge):
            self.common, self.personal = answer.copy(), {}
        else:
            copies = {id(knowledge): knowledge.copy() for knowledge in answer.values()}
            self.personal |= {client: copies[id(knowledge)] for client, knowledge in answer.items()}
