"""What nets take, one row a sample: a tensor, or several under names, such as ``input_ids`` and ``attention_mask``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import overload

import torch
from torch import Tensor

#: (B, ...), or tensors (B, ...) by name.
Inputs = Tensor | Mapping[str, Tensor]
#: The shape of one sample, without B; or the shapes of its tensors by name.
Shape = tuple[int, ...] | Mapping[str, tuple[int, ...]]


def count(inputs: Inputs) -> int:
    """B, how many samples there are.

    >>> count({"input_ids": torch.zeros(3, 8)}), count(torch.zeros(5, 2))
    (3, 5)
    """
    return len(next(iter(inputs.values()))) if isinstance(inputs, Mapping) else len(inputs)


@overload
def each(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor: ...
@overload
def each(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs: ...
def each(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """The function of the tensor, or of each of the named ones."""
    if isinstance(inputs, Mapping):
        return {name: function(tensor) for name, tensor in inputs.items()}
    return function(inputs)


def rows(inputs: Inputs, chosen: Tensor | slice) -> Inputs:
    """The samples at these places."""
    if isinstance(chosen, slice):
        return each(lambda tensor: tensor[chosen], inputs)
    return each(lambda tensor: tensor.index_select(0, chosen), inputs)  # which copies whole rows; tensor[chosen] goes by number


@overload
def concatenate(parts: Sequence[Tensor]) -> Tensor: ...
@overload
def concatenate(parts: Sequence[Inputs]) -> Inputs: ...
def concatenate(parts: Sequence[Inputs]) -> Inputs:
    """All samples of the parts, in their order.

    >>> concatenate([{"a": torch.zeros(2, 3)}, {"a": torch.ones(1, 3)}])["a"].shape
    torch.Size([3, 3])
    """
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: torch.cat([_named(part, name) for part in parts]) for name in first}
    return torch.cat([part for part in parts if isinstance(part, Tensor)])


def shape_of(inputs: Inputs) -> Shape:
    """The shape of one sample.

    >>> shape_of(torch.zeros(5, 3, 8, 8))
    (3, 8, 8)
    """
    if isinstance(inputs, Mapping):
        return {name: tuple(tensor.shape[1:]) for name, tensor in inputs.items()}
    return tuple(inputs.shape[1:])


def zeros(shape: Shape, count: int, *, tokens: bool) -> Inputs:
    """So many samples of zeros: token ids (int64), or real numbers."""
    dtype = torch.int64 if tokens else torch.float32
    if isinstance(shape, Mapping):
        return {name: torch.zeros(count, *held, dtype=dtype) for name, held in shape.items()}
    return torch.zeros(count, *shape, dtype=dtype)


def describe(shape: Shape) -> str:
    """A shape in words, for messages.

    >>> describe((13,)), describe({"input_ids": (12,), "attention_mask": (12,)})
    ('(13,)', 'input_ids (12,), attention_mask (12,)')
    """
    if isinstance(shape, Mapping):
        return ", ".join(f"{name} {held}" for name, held in shape.items())
    return str(shape)


def _named(inputs: Inputs, name: str) -> Tensor:
    assert isinstance(inputs, Mapping)
    return inputs[name]
