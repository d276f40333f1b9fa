"""Codecs: what compresses Knowledge on the wire. Any strategy's Knowledge, no edit to the strategy.

A codec turns Knowledge into a smaller message and back. Codecs form a chain; the receiver decodes it in reverse order.
A codec may code against a *base*: its own input in the last message that the receiver acknowledged. Both ends keep one base a
client and codec and move it only on acknowledgement, so a late, lost or rejected upload breaks no chain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from fedkd.errors import InputError, did_you_mean
from fedkd.knowledge import Knowledge
from fedkd.memory import Memory

#: Position in the chain -> that codec's input in the last acknowledged message.
Bases = Mapping[int, Knowledge]


class Codec(ABC):
    """One compression step. Subclasses are final and hold no state: what they remember is the base they are given."""

    needs_base: ClassVar[bool] = False

    @abstractmethod
    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        """The message for this knowledge. ``base`` is None before the first acknowledgement, or where none is needed."""

    @abstractmethod
    def decode(self, message: Knowledge, base: Knowledge | None) -> Knowledge:
        """The knowledge of this message, with the base that ``encode`` had. Raises ValueError on a message it cannot read."""


class HalfPrecision(Codec):
    """float32 and float64 tensors travel as float16: half the bytes, about three digits."""

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        """Cast, and note the dtypes to restore."""
        wide = {name: str(t.dtype) for name, t in knowledge.tensors.items() if t.dtype in (torch.float32, torch.float64)}
        halved = {name: t.half() if name in wide else t for name, t in knowledge.tensors.items()}
        facts = {f"float16.{name}": dtype.removeprefix("torch.") for name, dtype in wide.items()}
        return replace(knowledge, tensors=halved, header={**knowledge.header, **facts})

    def decode(self, message: Knowledge, base: Knowledge | None) -> Knowledge:
        """Cast back to the dtypes noted in the header."""
        noted = {key[8:]: str(value) for key, value in message.header.items() if key.startswith("float16.")}
        if not noted.keys() <= message.tensors.keys() or not set(noted.values()) <= {"float32", "float64"}:
            raise ValueError("the float16 header names a tensor or dtype that the message does not have")
        wide = {name: t.to(getattr(torch, noted[name])) if name in noted else t for name, t in message.tensors.items()}
        header = {key: value for key, value in message.header.items() if not key.startswith("float16.")}
        return replace(message, tensors=wide, header=header)


CODECS: dict[str, Codec] = {"float16": HalfPrecision()}


def chain(names: Sequence[str]) -> tuple[Codec, ...]:
    """The codecs of these names, in order of encoding."""
    for name in names:
        if name not in CODECS:
            raise InputError(f"uplink: unknown codec {name!r}: {did_you_mean(name, CODECS)}")
    return tuple(CODECS[name] for name in names)


def encode(codecs: Sequence[Codec], knowledge: Knowledge, bases: Bases) -> tuple[Knowledge, dict[int, Knowledge]]:
    """Run the chain. Returns the message, and the bases to keep if this message is acknowledged."""
    kept: dict[int, Knowledge] = {}
    for position, codec in enumerate(codecs):
        if codec.needs_base:
            kept[position] = knowledge
        knowledge = codec.encode(knowledge, bases.get(position))
    return knowledge, kept


def decode(codecs: Sequence[Codec], message: Knowledge, bases: Bases) -> tuple[Knowledge, dict[int, Knowledge]]:
    """Undo the chain. Returns the knowledge, and the bases to keep if it is accepted. Raises ValueError as its codecs do."""
    kept: dict[int, Knowledge] = {}
    for position, codec in reversed(list(enumerate(codecs))):
        message = codec.decode(message, bases.get(position))
        if codec.needs_base:
            kept[position] = message
    return message, kept


def load_bases(memory: Memory, which: str) -> dict[int, Knowledge]:
    """The bases that upload ``which`` left in a client's memory; none if it is not (or no longer) the one remembered."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, tensor in memory.under(f"codec/{which}/").items():
        position, _, name = key.partition("/")
        found.setdefault(int(position), {})[name] = tensor
    return {position: Knowledge.of("coded", tensors) for position, tensors in found.items()} if which else {}


def save_bases(memory: Memory, which: str, bases: Bases, *, keep: str) -> None:
    """Remember what upload ``which`` would leave, beside those of ``keep``, the last acknowledged; forget all others."""
    for key in [key for key in memory if key.startswith("codec/") and not (keep and key.startswith(f"codec/{keep}/"))]:
        del memory[key]
    for position, base in bases.items():
        memory.store(f"codec/{which}/{position}/", base.tensors)
