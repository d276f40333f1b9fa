"""How the tensors of a message lie in its arrays: a line of text for each, with its name, dtype, shape and space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

#: No tensor has more axes.
MAX_AXES = 64


class Layout(NamedTuple):
    """What a manifest says of the tensors."""

    names: tuple[str, ...]  # in their order
    spaces: Mapping[str, str]  # by name
    arrays: Mapping[str, list[tuple[str, tuple[int, ...], int]]]  # dtype -> name, shape and elements of each


@lru_cache(maxsize=64)
def layout_of(text: str) -> Layout:
    """The layout in this text. Cached: uploads of a round have the same.

    Raises:
        ValueError: it contradicts itself, or is none.
    """
    parts = [line.split("\t") for line in text.split("\n") if line]
    lines = [(n, dtype, tuple(map(int, filter(None, shape.split(",")))), space) for n, dtype, shape, space in parts]
    sides = [side for _, _, size, _ in lines for side in size]
    odd = not all(0 <= side < 2**40 for side in sides) or any(len(size) > MAX_AXES for _, _, size, _ in lines)
    if odd or len({name for name, *_ in lines}) != len(lines):
        raise ValueError("its manifest contradicts itself")
    arrays: dict[str, list[tuple[str, tuple[int, ...], int]]] = {}
    for name, dtype, size, _ in lines:
        arrays.setdefault(dtype, []).append((name, size, math.prod(size)))
    return Layout(tuple(name for name, *_ in lines), {name: space for name, _, _, space in lines}, arrays)
