"""The form of a data set's samples: kind, type, shape and encoding, which must be equal at all nodes. It travels as text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Self, final

import torch

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs, describe
from fedkd.data.source import Source

#: Of one tensor a sample, which has no name.
ALONE = ""
#: No sample has more numbers.
LARGEST = 10**7


@final
@dataclass(frozen=True)
class Form:
    """What nets take, in words. A sample is one tensor, or several by name."""

    kind: str
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]  # name, type and shape of each
    encoding: str = ""  # a hex digest of what numbers stand for: columns and categories, letters of tokens

    @classmethod
    def of(cls, source: Source) -> Self:
        """Of the samples of a source."""
        inputs = source.train_inputs
        named = inputs if isinstance(inputs, Mapping) else {ALONE: inputs}
        tensors = [(name, str(t.dtype).removeprefix("torch."), tuple(t.shape[1:])) for name, t in sorted(named.items())]
        encoding = hashlib.blake2b(repr(source.features).encode(), digest_size=8).hexdigest() if source.features else ""
        return cls(source.kind.name, tuple(tensors), encoding)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Undoes ``to_text``. InputError for a text that it did not write."""
        try:
            held: dict[str, Any] = json.loads(text)
            tensors = tuple((str(name), str(dtype), tuple(map(int, shape))) for name, dtype, shape in held["tensors"])
            form = cls(str(held["kind"])[:64], tensors, str(held["encoding"])[:64])
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise InputError(f"it does not say of what form its samples are ({type(error).__name__})") from None
        known = all(isinstance(getattr(torch, dtype, None), torch.dtype) for _, dtype, _ in tensors)
        if not known or any(min(shape, default=1) < 1 or prod(shape) > LARGEST for _, _, shape in tensors):
            raise InputError(f"its samples are {str(form)[:120]}, which no sample is")
        return form

    def to_text(self) -> str:
        """As it travels."""
        return json.dumps(asdict(self))

    def blank(self) -> Inputs:
        """One sample of zeros (1, ...), which stands for the form where there is no sample."""
        held = {name: torch.zeros(1, *shape, dtype=getattr(torch, dtype)) for name, dtype, shape in self.tensors}
        return held.get(ALONE, held)

    def __str__(self) -> str:
        tensors = ", ".join(f"{dtype} {describe({name: shape} if name else shape)}" for name, dtype, shape in self.tensors)
        return f"{self.kind} {tensors}{f', encoded as {self.encoding}' if self.encoding else ''}"
