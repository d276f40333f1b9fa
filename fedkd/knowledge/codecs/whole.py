"""No coding at all, by a name, for tables that compare codecs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from fedkd.knowledge.codecs.codec import Codec
from fedkd.knowledge.knowledge import Knowledge


@final
@dataclass(frozen=True)
class Whole(Codec):
    """Everything travels as it is: what "bits32" means in CFD's notation, where CFD-1-32 quantises the uplink only."""

    lossless = True

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        """The knowledge itself."""
        return knowledge

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        """The message itself."""
        return message
