"""What a loss is given beside net and batch: taken apart into tensors, which differ from client to client, and the rest."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor, nn

from fedkd.experiment.algorithm.together.alike import Alone, is_state, plain, structure_of


@final
@dataclass
class Parts:
    """A value taken apart."""

    tensors: list[Tensor] = field(default_factory=list)
    changing: list[int] = field(default_factory=list)  # places of those tensors that a loss may change
    modules: list[nn.Module] = field(default_factory=list)
    rest: list[Hashable] = field(default_factory=list)  # all else, in order


def taken_apart(value: Any) -> Parts:
    """Tensors, modules and the rest of a value: a tensor, a module, plain values, collections and objects of these.

    Raises Alone for what is none of them.
    """
    parts = Parts()
    _take(value, parts, changes=False)
    return parts


def _take(value: Any, parts: Parts, *, changes: bool) -> None:
    if isinstance(value, Tensor):
        parts.rest.append((tuple(value.shape), value.dtype))
        if changes:
            parts.changing.append(len(parts.tensors))
        parts.tensors.append(value)
    elif isinstance(value, nn.Module):
        parts.rest.append(structure_of(value, tensors_of(value)))
        parts.modules.append(value)
    elif plain(value):
        parts.rest.append((type(value), value))
    else:
        items = _items(value)
        parts.rest.append((type(value), tuple(name for name, _ in items)))
        for _, item in items:
            _take(item, parts, changes=changes or is_state(value))


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if hasattr(value, "__dict__") and not callable(value):
        return list(vars(value).items())
    raise Alone(f"its loss is given a {type(value).__name__}")


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Its parameters and buffers, by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def put_together(like: Any, tensors: list[Tensor]) -> Any:
    """A copy of a value with these tensors, in order, in place of its own; the modules are the same."""
    rest = iter(tensors)

    def put(value: Any) -> Any:
        if isinstance(value, Tensor):
            return next(rest)
        if isinstance(value, nn.Module) or plain(value):
            return value
        if isinstance(value, Mapping):
            return {name: put(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            made = [put(item) for item in value]
            return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
        other = copy.copy(value)
        for name, item in vars(value).items():
            object.__setattr__(other, name, put(item))
        return other

    return put(like)


def leave(value: Any, changed: Any) -> None:
    """Leave in a value's objects what a loss left in those of its copy, plain attributes only."""
    if isinstance(value, Tensor | nn.Module) or plain(value):
        return
    for (name, item), (_, other) in zip(_items(value), _items(changed), strict=True):
        if plain(item):
            if is_state(value) and item != other:
                setattr(value, name, other)
        else:
            leave(item, other)
