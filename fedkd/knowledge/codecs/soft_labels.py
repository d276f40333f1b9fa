"""Soft labels of two to sixteen bits: CFD's quantiser on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fedkd.knowledge.codecs.codec import Codec
from fedkd.knowledge.codecs.notes import Form
from fedkd.knowledge.codecs.packing import pack, packed_bytes, unpack
from fedkd.knowledge.codecs.parts import Parts, join, part, split
from fedkd.knowledge.codecs.quantiser import levels, on_grid
from fedkd.knowledge.knowledge import Knowledge


def is_table(tensor: Tensor, space: str) -> bool:
    """Whether this is a table of distributions over the last axis; one that is not finite is left for the guard to refuse."""
    filled = tensor.is_floating_point() and tensor.ndim > 0 and tensor.numel() > 0
    return space == "probabilities" and filled and bool(tensor.isfinite().all())


@final
@dataclass(frozen=True)
class SoftLabels(Codec):
    """Tensors in space "probabilities" travel as whole steps of 1 / (2^b - 1), packed to b bits each: (ceil(P C b / 8),) bytes.

    What comes back is ``quantise(probabilities, bits)``: rows that sum to one, zero rows as zero rows. Other spaces stay whole.
    """

    bits: int

    @property
    def _key(self) -> str:
        return f"codec.bits{self.bits}"

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        """Quantise and pack."""
        return split(knowledge, self._key, ("",), self._pack)

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        """Unpack, and check that each row is a distribution."""
        return join(message, self._key, ("",), self._unpack, max_bytes)

    def _pack(self, tensor: Tensor, space: str) -> Parts | None:
        return {"": pack(levels(tensor, self.bits), self.bits)} if is_table(tensor, space) else None

    def _unpack(self, parts: Parts, form: Form) -> Tensor:
        count, steps = form.elements, 2**self.bits - 1
        if not form.dtype.is_floating_point or not form.shape or not count:
            raise ValueError(f"{self._key}: the header calls a coded tensor {form.dtype} of shape {form.shape}")
        packed = part(parts, "", torch.uint8, (packed_bytes(count, self.bits),))
        table = unpack(packed, self.bits, count).view(form.shape)  # (..., C)
        sums = table.sum(-1)
        if not ((sums == 0) | (sums == steps)).all():
            raise ValueError(f"{self._key}: a row is neither a distribution nor all zero")
        return on_grid(table, self.bits, form.dtype)
