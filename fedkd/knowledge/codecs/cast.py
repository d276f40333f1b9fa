"""Casts: floating tensors travel in two bytes an element."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from fedkd.knowledge.codecs.codec import Codec
from fedkd.knowledge.codecs.notes import Form
from fedkd.knowledge.codecs.parts import Parts, join, part, split
from fedkd.knowledge.knowledge import Knowledge


@final
@dataclass(frozen=True)
class Cast(Codec):
    """float32 and float64 tensors travel as float16 (about three digits, to 65504) or bfloat16 (two digits, float32's range).

    A tensor with a value that the narrow dtype cannot hold travels whole, and so does one that is not finite. A cast changes no
    meaning, so spaces stay as they are.
    """

    dtype: torch.dtype

    @property
    def _key(self) -> str:
        return f"codec.{str(self.dtype).removeprefix('torch.')}"

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        """Cast, and note the dtypes to restore."""
        return replace(split(knowledge, self._key, ("",), self._narrow), spaces=knowledge.spaces)

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        """Cast back to the dtypes noted in the header."""
        return join(message, self._key, ("",), self._widen, max_bytes)

    def _narrow(self, tensor: Tensor, space: str) -> Parts | None:
        if tensor.dtype not in (torch.float32, torch.float64):
            return None
        narrow = tensor.to(self.dtype)
        return {"": narrow} if narrow.isfinite().all() else None

    def _widen(self, parts: Parts, form: Form) -> Tensor:
        return part(parts, "", self.dtype, form.shape).to(form.dtype)
