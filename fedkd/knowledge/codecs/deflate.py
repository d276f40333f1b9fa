"""Entropy coding: all tensors as one compressed stream of bytes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import final

import torch
from torch import Tensor

from fedkd.knowledge.codecs.codec import Codec
from fedkd.knowledge.codecs.notes import read_note, with_note
from fedkd.knowledge.codecs.planes import from_planes, to_planes
from fedkd.knowledge.knowledge import Knowledge

KEY, STREAM = "codec.deflate", "deflate"


@final
@dataclass(frozen=True)
class Deflate(Codec):
    """All tensors travel as one uint8 tensor "deflate": their byte planes one after the other, compressed by zlib. Lossless.

    zlib is told to look for runs of equal bytes only, and to code frequent bytes shortly: byte planes of noisy numbers hold
    nothing else. It is as small as a full search there, or smaller, and five to ten times as fast. It stands last in a chain.
    """

    lossless = True

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        """Compress. Knowledge without tensors stays as it is."""
        if not knowledge.tensors:
            return knowledge
        header = with_note(knowledge, KEY, knowledge.tensors)
        packer = zlib.compressobj(strategy=zlib.Z_RLE)
        pieces = [packer.compress(to_planes(tensor).numpy().data) for tensor in knowledge.tensors.values()]
        stream = _bytes(b"".join([*pieces, packer.flush()]))
        return replace(knowledge, tensors={STREAM: stream}, spaces={STREAM: "coded"}, header=header)

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        """Expand to the bytes that the header announces, and to no more."""
        forms, header = read_note(message, KEY, max_bytes)
        if not forms:
            return message
        stream = message.tensors.get(STREAM)
        if stream is None or len(message.tensors) > 1 or stream.dtype != torch.uint8 or stream.ndim != 1:
            raise ValueError(f"{KEY}: the message is not one tensor {STREAM!r} of bytes")
        ends = list(accumulate(form.elements * form.dtype.itemsize for form in forms.values()))
        flat = _bytes(_expand(stream, ends[-1]))
        planes = [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        tensors = {
            name: from_planes(piece.view(form.dtype.itemsize, len(piece) // form.dtype.itemsize), form)
            for (name, form), piece in zip(forms.items(), planes, strict=True)
        }
        spaces = {name: form.space for name, form in forms.items()}
        return replace(message, tensors=tensors, spaces=spaces, header=header)


def _expand(stream: Tensor, size: int) -> bytes:
    """The stream's bytes, which must be so many. Never holds more than one beyond."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(stream.contiguous().numpy().data, size + 1)
    except zlib.error:
        raise ValueError(f"{KEY}: the stream is damaged") from None
    if len(data) != size or not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"{KEY}: the stream does not hold the {size} bytes that the header announces")
    return data


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
