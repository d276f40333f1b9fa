"""Eight-bit integers with one scale a row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fedkd.knowledge.codecs.codec import Codec
from fedkd.knowledge.codecs.notes import Form
from fedkd.knowledge.codecs.parts import Parts, join, part, split
from fedkd.knowledge.knowledge import Knowledge

KEY, SCALE = "codec.int8", "/scale"


@final
@dataclass(frozen=True)
class Int8(Codec):
    """Floating tensors travel as round(x / scale) in int8, with a float32 scale = max|x| / 127 for each row.

    A row is one index of the first axis (an output channel of a convolution, a sample of a table); a 1-D tensor is one row.
    An element comes back within half its row's scale, zero as zero: the scale is symmetric for that zero, and to send one
    number a row, not two. Probabilities are then divided by their sum over the last axis, so they stay distributions; "bits8"
    is finer for them. Scalars, and what is not finite or would not become smaller, travel whole.
    """

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        """Scale and round."""
        return split(knowledge, KEY, ("", SCALE), _round)

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        """Multiply by the scales."""
        return join(message, KEY, ("", SCALE), _multiply, max_bytes)


def _round(tensor: Tensor, space: str) -> Parts | None:
    rows, columns = _rows(tuple(tensor.shape))
    if not tensor.is_floating_point() or not tensor.ndim or rows * (columns + 4) >= rows * columns * tensor.element_size():
        return None
    values = tensor.to(torch.promote_types(tensor.dtype, torch.float32)).reshape(rows, columns)
    scales = values.abs().amax(1).div(127).float()  # (rows,)
    if not scales.isfinite().all():
        return None
    levels = torch.where(scales[:, None] > 0, values / scales[:, None], 0.0).round().clamp(-127, 127)
    return {"": levels.to(torch.int8).reshape(tensor.shape), SCALE: scales}


def _multiply(parts: Parts, form: Form) -> Tensor:
    rows, columns = _rows(form.shape)
    if not form.dtype.is_floating_point or not form.shape:
        raise ValueError(f"{KEY}: the header calls a coded tensor {form.dtype} of shape {form.shape}")
    levels = part(parts, "", torch.int8, form.shape).reshape(rows, columns)
    scales = part(parts, SCALE, torch.float32, (rows,))[:, None]
    wide = torch.promote_types(form.dtype, torch.float32)
    values = (levels.to(wide) * scales.to(wide)).reshape(form.shape)
    return _FINISH.get(form.space, _as_it_is)(values).to(form.dtype)


def _distributions(values: Tensor) -> Tensor:
    sums = values.sum(-1, keepdim=True)
    return values / torch.where(sums > 0, sums, 1.0)


def _as_it_is(values: Tensor) -> Tensor:
    return values


#: Space -> what its values need after rounding.
_FINISH = {"probabilities": _distributions}


def _rows(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many rows a tensor of this shape has, and how long they are."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
