"""Hard labels: CFD's one-bit quantiser on the wire, one class index a row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fedkd.knowledge.codecs.codec import Codec
from fedkd.knowledge.codecs.notes import Form
from fedkd.knowledge.codecs.packing import pack, packed_bytes, unpack
from fedkd.knowledge.codecs.parts import Parts, join, part, split
from fedkd.knowledge.codecs.quantiser import levels
from fedkd.knowledge.codecs.soft_labels import is_table
from fedkd.knowledge.knowledge import Knowledge

KEY, ABSENT = "codec.bits1", "/absent"


@final
@dataclass(frozen=True)
class HardLabels(Codec):
    """Tensors in space "probabilities" travel as the index of the largest class, packed to ceil(log2 C) bits a row.

    What comes back is ``quantise(probabilities, 1)``, one-hot rows. Where rows of zeros are, a second part marks them with one
    bit a row, so a table without any costs no more than the paper's P log2 C bits. Other spaces stay whole.
    """

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        """Take the largest class of each row, and pack."""
        return split(knowledge, KEY, ("", ABSENT), _pack)

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        """Unpack to one-hot rows."""
        return join(message, KEY, ("", ABSENT), _unpack, max_bytes)


def _pack(tensor: Tensor, space: str) -> Parts | None:
    if not is_table(tensor, space):
        return None
    one_hot = levels(tensor, 1)  # (..., C)
    parts = {"": pack(one_hot.argmax(-1), _index_bits(tensor.shape[-1]))}
    absent = one_hot.sum(-1) == 0
    return {**parts, ABSENT: pack(absent, 1)} if absent.any() else parts


def _unpack(parts: Parts, form: Form) -> Tensor:
    if not form.dtype.is_floating_point or not form.shape or not form.elements:
        raise ValueError(f"{KEY}: the header calls a coded tensor {form.dtype} of shape {form.shape}")
    classes, rows = form.shape[-1], math.prod(form.shape[:-1])
    bits = _index_bits(classes)
    labels = unpack(part(parts, "", torch.uint8, (packed_bytes(rows, bits),)), bits, rows)
    if (labels >= classes).any():
        raise ValueError(f"{KEY}: a label is none of the {classes} classes")
    one_hot = torch.zeros(rows, classes, dtype=form.dtype).scatter_(1, labels.long()[:, None], 1.0)  # (rows, C)
    if ABSENT in parts:
        one_hot[unpack(parts[ABSENT], 1, rows).bool()] = 0.0
    return one_hot.view(form.shape)


def _index_bits(classes: int) -> int:
    """How many bits tell so many classes apart: ceil(log2 C)."""
    return (classes - 1).bit_length()
