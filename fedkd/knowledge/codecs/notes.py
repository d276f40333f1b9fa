"""A codec's note in the header: what each tensor that it coded was. Read with a bound, before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.knowledge.knowledge import DTYPES, SPACES, Knowledge

Header = Mapping[str, str | int | float]

MAX_AXES = 64


@dataclass(frozen=True)
class Form:
    """What a tensor was before a codec: shape, dtype and space."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    space: str

    @property
    def elements(self) -> int:
        """How many elements such a tensor has."""
        return math.prod(self.shape)

    @property
    def bound(self) -> int:
        """Bytes of such a tensor, an axis of none counted as one: a claimed (0, 10**18) is out of bounds too."""
        return math.prod(max(side, 1) for side in self.shape) * self.dtype.itemsize


def with_note(knowledge: Knowledge, key: str, names: Iterable[str]) -> Header:
    """The header of this knowledge, and a note of what its tensors of these names are; as it is where there are none.

    Raises:
        ValueError: the header has this key already (a codec stands in a chain once), or a name holds a line break.
    """
    if key in knowledge.header:
        raise ValueError(f"the header already has {key!r}: a codec can stand in a chain once")
    lines = [f"{name}\t{_describe(knowledge.tensors[name])}\t{knowledge.spaces[name]}" for name in names]
    if any("\n" in line for line in lines):
        raise ValueError("a tensor whose name holds a line break cannot be coded")
    return {**knowledge.header, key: "\n".join(lines)} if lines else knowledge.header


def read_note(message: Knowledge, key: str, max_bytes: int) -> tuple[dict[str, Form], Header]:
    """What the coded tensors were, by name, and the header without this note. No note: no tensors.

    Raises:
        ValueError: the note is no note, or its tensors are larger than ``max_bytes`` in sum.
    """
    header = dict(message.header)
    note = header.pop(key, None)
    if note is None:
        return {}, header
    if not isinstance(note, str):
        raise ValueError(f"the header's {key!r} is not text")
    forms: dict[str, Form] = {}
    for line in note.split("\n"):
        name, *fields = line.rsplit("\t", 3)
        if len(fields) != 3 or name in forms:
            raise ValueError(f"the header's {key!r} is not one line a tensor: name, dtype, shape and space")
        forms[name] = _parse(key, *fields)
    if sum(form.bound for form in forms.values()) > max_bytes:
        raise ValueError(f"the header's {key!r} claims tensors of more bytes than the {max_bytes} allowed")
    return forms, header


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}\t{','.join(map(str, tensor.shape))}"


def _parse(key: str, dtype: str, shape: str, space: str) -> Form:
    sides = shape.split(",") if shape else []
    if dtype not in DTYPES or space not in SPACES or len(sides) > MAX_AXES:
        raise ValueError(f"the header's {key!r} names an unknown dtype or space, or more than {MAX_AXES} axes")
    if not all(side.isdecimal() and len(side) < 19 for side in sides):
        raise ValueError(f"the header's {key!r} names a shape that is none")
    return Form(tuple(map(int, sides)), DTYPES[dtype], space)
