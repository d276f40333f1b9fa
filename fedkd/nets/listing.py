"""What a net holds, listed once: torch walks through all its parts again each time that it is asked for weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import chain
from operator import is_
from typing import Any, Self, final

from torch import Tensor, nn

#: What a part may not have of its own, or its state dict is more than its tensors.
_PLAIN = {name: vars(nn.Module)[name] for name in ("state_dict", "_save_to_state_dict", "get_extra_state", "named_parameters")}


@final
class Listing:
    """The parameters of a module by name, and its state dict, for as long as it holds the very same parts and tensors.

    >>> net = nn.Sequential(nn.Linear(2, 1))
    >>> listing = Listing.of(net)
    >>> list(listing.parameters), listing.is_current()
    (['0.weight', '0.bias'], True)
    >>> net[0].bias = None
    >>> listing.is_current()
    False
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters: Mapping[str, nn.Parameter] = dict(nn.Module.named_parameters(module))
        self._state: Any = nn.Module.state_dict(module, keep_vars=True)
        self._parts = [part for part in module.modules() if part is not module]
        self._places = [place for part in module.modules() for place in _places_of(part)]
        self._filled = [place for place in self._places if place]
        self._held = list(self._found())

    @classmethod
    def of(cls, module: nn.Module) -> Self | None:
        """The listing of a module; None where a part of it has ways of its own to tell what it holds."""
        return cls(module) if all(_is_plain(part, whole=part is module) for part in module.modules()) else None

    def is_current(self) -> bool:
        """Whether the module still holds just this."""
        found = list(self._found())
        return sum(map(len, self._places)) == len(found) == len(self._held) and all(map(is_, found, self._held))

    def state(self, *, keep_vars: bool) -> dict[str, Tensor]:
        """As ``state_dict`` of the module gives it."""
        state = OrderedDict(self._state if keep_vars else ((name, tensor.detach()) for name, tensor in self._state.items()))
        state._metadata = self._state._metadata  # type: ignore[attr-defined]
        return state

    def are_in_mode(self, training: bool) -> bool:
        """Whether all parts of the module are in train mode, or in eval mode."""
        return all(part.training == training for part in self._parts)

    def _found(self) -> Iterator[object]:
        """Parts and tensors, one after the other."""
        return chain.from_iterable(place.values() for place in self._filled)


def _places_of(part: nn.Module) -> tuple[Mapping[Any, Any], ...]:
    hooks = (part._state_dict_hooks, part._state_dict_pre_hooks)
    return part._modules, part._parameters, part._buffers, *hooks


def _is_plain(part: nn.Module, *, whole: bool) -> bool:
    if part._state_dict_hooks or part._state_dict_pre_hooks:
        return False
    return whole or all(getattr(type(part), name) is plain for name, plain in _PLAIN.items())
