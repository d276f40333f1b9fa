"""The difference to the last acknowledged message, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from fedkd.knowledge.codecs.codec import Codec
from fedkd.knowledge.codecs.notes import Form, read_note, with_note
from fedkd.knowledge.codecs.planes import from_planes, to_planes
from fedkd.knowledge.knowledge import Knowledge

KEY = "codec.delta"


@final
@dataclass(frozen=True)
class Delta(Codec):
    """Tensors travel as the exclusive or of their bytes with those of the base, in byte planes: what did not change is zeros.

    Lossless for every dtype. A tensor that the base lacks, or has in another shape or dtype, travels whole, and so does all
    without a base. It saves nothing by itself: "deflate" behind it does. CFD (arXiv 2012.00632) reports that delta coding costs
    more than it saves with two to four classes.
    """

    needs_base = True
    lossless = True

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        """The bytes that changed."""
        earlier = base.tensors if base else {}
        changes = {
            name: to_planes(tensor) ^ to_planes(earlier[name])
            for name, tensor in knowledge.tensors.items()
            if name in earlier and _alike(earlier[name], tensor)
        }
        header = with_note(knowledge, KEY, changes)
        spaces = {**knowledge.spaces, **dict.fromkeys(changes, "coded")}
        return replace(knowledge, tensors={**knowledge.tensors, **changes}, spaces=spaces, header=header)

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        """Change the base."""
        forms, header = read_note(message, KEY, max_bytes)
        earlier = base.tensors if base else {}
        tensors, spaces = dict(message.tensors), dict(message.spaces)
        for name, form in forms.items():
            if name not in tensors or name not in earlier or not _alike(earlier[name], form):
                raise ValueError(f"{KEY}: the header names a tensor that the message or the base does not have so")
            known = to_planes(earlier[name])
            if tensors[name].dtype != torch.uint8 or tensors[name].shape != known.shape:
                raise ValueError(f"{KEY}: a difference is not of the shape of the base's byte planes")
            tensors[name], spaces[name] = from_planes(known ^ tensors[name], form), form.space
        return replace(message, tensors=tensors, spaces=spaces, header=header)


def _alike(base: Tensor, other: Tensor | Form) -> bool:
    return (tuple(base.shape), base.dtype) == (tuple(other.shape), other.dtype)
