"""Coding: a message through a chain of codecs, and back."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from fedkd.knowledge.codecs.codec import Codec
from fedkd.knowledge.knowledge import Knowledge

#: Position in the chain -> that codec's input in the last acknowledged message. Of its tensors only the bits count.
Bases = Mapping[int, Knowledge]
#: A fact in the header, any number: this message must arrive bit for bit, so codecs that lose something leave it alone.
EXACT = "exact"


def encode(codecs: Sequence[Codec], knowledge: Knowledge, bases: Bases) -> tuple[Knowledge, dict[int, Knowledge]]:
    """Run the chain. Returns the message, and the bases to keep if this message is acknowledged.

    The bases are what the receiver will hold. Where a codec loses digits behind one that needs a base, that is not what went
    in, so the message is decoded here too.
    """
    kept: dict[int, Knowledge] = {}
    message = knowledge
    for position, codec in enumerate(codecs):
        if EXACT in knowledge.header and not codec.lossless:
            continue
        if codec.needs_base:
            kept[position] = message
        message = codec.encode(message, bases.get(position))
    if kept and not settled(codecs):
        _, kept = decode(codecs, message, bases, max_bytes=sys.maxsize)
    return message, kept


def decode(
    codecs: Sequence[Codec], message: Knowledge, bases: Bases, *, max_bytes: int = 1 << 31
) -> tuple[Knowledge, dict[int, Knowledge]]:
    """Undo the chain. Returns the knowledge, and the bases to keep if it is accepted.

    Args:
        codecs: the chain that encoded.
        message: any, from anybody.
        bases: those that ``encode`` had.
        max_bytes: how many raw bytes the tensors may have in sum after each codec; checked before they are made.

    Raises:
        ValueError: the message cannot be read, or is too large. One line.
    """
    kept: dict[int, Knowledge] = {}
    for position, codec in reversed(list(enumerate(codecs))):
        message = codec.decode(message, bases.get(position), max_bytes)
        if message.raw_bytes > max_bytes:
            raise ValueError(f"the decoded message holds {message.raw_bytes} bytes, more than the {max_bytes} allowed")
        if codec.needs_base:
            kept[position] = message
    return message, kept


def as_decoded(codecs: Sequence[Codec], knowledge: Knowledge) -> Knowledge:
    """What a receiver reads when this is sent: the same, but for what the chain loses. ``settled`` says when that is sure."""
    return decode(codecs, encode(codecs, knowledge, {})[0], {}, max_bytes=sys.maxsize)[0]


def settled(codecs: Sequence[Codec]) -> bool:
    """Whether all receivers read the same, whatever they hold as a base: nothing is lost behind a codec that needs one.

    >>> from fedkd.knowledge.codecs import chain
    >>> settled(chain(["int8", "delta"])), settled(chain(["delta", "int8"]))
    (True, False)
    """
    based = [position for position, codec in enumerate(codecs) if codec.needs_base]
    return not based or all(codec.lossless for codec in codecs[min(based) + 1 :])
