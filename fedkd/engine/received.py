"""What came back from an exchange, and how many bytes it took."""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import Message

from fedkd.knowledge.codecs import Bases
from fedkd.knowledge.knowledge import Knowledge


@dataclass
class Traffic:
    """Bytes of one direction: raw, as the strategy's tensors are; coded, by codecs; and on Flower's wire."""

    raw: int = 0
    coded: int = 0
    wire: int = 0

    def add(self, raw: int, coded: int, wire: int) -> None:
        """Count one message."""
        self.raw, self.coded, self.wire = self.raw + raw, self.coded + coded, self.wire + wire


@dataclass
class Received:
    """What came back: uploads by client id, in order; why the others did not count."""

    uploads: dict[int, Knowledge] = field(default_factory=dict)
    late_uploads: dict[int, Knowledge] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    late: list[int] = field(default_factory=list)
    traffic: dict[int, Traffic] = field(default_factory=dict)
    #: Floating point operations of each client's call, where a virtual clock has them counted.
    flops: dict[int, float] = field(default_factory=dict)
    #: What each upload leaves for the codecs of the next one, once it is accepted.
    bases: dict[int, Bases] = field(default_factory=dict)


@dataclass
class Replies:
    """Replies to the messages of an exchange, and to those of earlier ones, by round and exchange."""

    current: list[Message]
    earlier: dict[tuple[int, int], list[Message]]
