"""The largest few entries of each row, with their class ids."""

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

CLASSES = "/classes"
#: Space -> how many columns beside the K largest say what the other classes get.
FURTHER = {"probabilities": 0, "logits": 1}


@final
@dataclass(frozen=True)
class Top(Codec):
    """Rows of tensors in space "probabilities" or "logits" travel as their K largest entries and the ids of those classes.

    The other classes come back equal. Probabilities: what the kept ones leave of one, spread evenly (kept ones that exceed one,
    after a further lossy codec, are scaled to one); rows of zeros stay so. Logits: the mean of the dropped ones, which travels
    as one more column. Tensors that would not become smaller travel whole: 8 of 10 float32 with ids of a byte save nothing.
    """

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError("top takes the number of classes to keep, 1 or more")

    @property
    def _key(self) -> str:
        return f"codec.top{self.k}"

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        """Keep the largest, in order of class id."""
        return split(knowledge, self._key, ("", CLASSES), self._keep)

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        """Fill the rest."""
        return join(message, self._key, ("", CLASSES), self._fill, max_bytes)

    def _keep(self, tensor: Tensor, space: str) -> Parts | None:
        if space not in FURTHER or not tensor.is_floating_point() or not tensor.ndim or not tensor.isfinite().all():
            return None
        classes, further, size = tensor.shape[-1], FURTHER[space], tensor.element_size()
        if (self.k + further) * size + self.k * _id_dtype(classes).itemsize >= classes * size:
            return None
        rows = tensor.reshape(-1, classes)  # (rows, C)
        kept = rows.topk(self.k, dim=-1).indices.sort(dim=-1).values  # (rows, K)
        values = rows.gather(1, kept)
        dropped = rows.double().scatter(1, kept, 0.0).sum(1, keepdim=True) / (classes - self.k)  # (rows, 1)
        columns = [values, dropped.to(tensor.dtype)][: 1 + further]
        return {"": torch.cat(columns, dim=1), CLASSES: kept.to(_id_dtype(classes))}

    def _fill(self, parts: Parts, form: Form) -> Tensor:
        if form.space not in FURTHER or not form.dtype.is_floating_point or not form.shape or form.shape[-1] <= self.k:
            raise ValueError(f"{self._key}: the header calls a coded tensor {form.dtype} of shape {form.shape} in {form.space}")
        classes, rows = form.shape[-1], math.prod(form.shape[:-1])
        values = part(parts, "", form.dtype, (rows, self.k + FURTHER[form.space]))
        kept = part(parts, CLASSES, _id_dtype(classes), (rows, self.k)).long()
        if rows and not (kept[:, 0].min() >= 0 and kept[:, -1].max() < classes and (kept.diff(dim=1) > 0).all()):
            raise ValueError(f"{self._key}: class ids must rise from 0 to {classes - 1}")
        filled = _FILL[form.space](values, kept, classes)  # (rows, C)
        return filled.to(form.dtype).view(form.shape)


def _probabilities(values: Tensor, kept: Tensor, classes: int) -> Tensor:
    totals = values.double().sum(1, keepdim=True)  # (rows, 1)
    left = torch.where(totals > 0, (1 - totals).clamp(min=0), 0.0) / (classes - kept.shape[1])
    return left.expand(-1, classes).scatter(1, kept, values / totals.clamp(min=1))


def _logits(values: Tensor, kept: Tensor, classes: int) -> Tensor:
    return values[:, -1:].expand(-1, classes).scatter(1, kept, values[:, :-1])


_FILL = {"probabilities": _probabilities, "logits": _logits}


def _id_dtype(classes: int) -> torch.dtype:
    """The narrowest integer that numbers so many classes."""
    return torch.uint8 if classes <= 2**8 else torch.int16 if classes <= 2**15 else torch.int32
