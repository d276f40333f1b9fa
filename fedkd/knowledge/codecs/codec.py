"""What a codec is: one compression step on Knowledge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from fedkd.knowledge.knowledge import Knowledge


class Codec(ABC):
    """One compression step. Subclasses are final and hold no state: what they remember is the base they are given.

    A codec passes on untouched what it does not concern: other dtypes, other spaces, tensors that it would make larger. What it
    codes it notes in the header, under one key of its own; name, place, shape, dtype and space are restored.
    """

    #: Whether ``encode`` and ``decode`` want the codec's own input in the last acknowledged message.
    needs_base: ClassVar[bool] = False
    #: Whether ``decode`` gives back every bit.
    lossless: ClassVar[bool] = False

    @abstractmethod
    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        """The message for this knowledge. ``base`` is None before the first acknowledgement, or where none is needed."""

    @abstractmethod
    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        """The knowledge of this message, with the base that ``encode`` had.

        The message may come from anybody. Whatever its tensors and its header hold, the answer is Knowledge or a ValueError of
        one line, and sizes that it claims are held against ``max_bytes`` (raw bytes) before anything is allocated for them.
        """
