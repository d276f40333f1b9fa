"""What must agree for trainings to be carried out as one: nets, losses, settings and optimisers, as values to compare."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import is_dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from fedkd.nets import ZOO, Net

#: What is compared by value.
_PLAIN = (bool, int, float, str, bytes, type(None), type, torch.dtype, torch.device, torch.memory_format)
#: What torch's own optimisers remember of a parameter, beside the count of steps.
_REMEMBERED: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
}


@final
class Alone(Exception):
    """Why a training cannot be carried out together with others, in words."""


def structure_of(module: nn.Module, held: Mapping[str, Tensor]) -> Hashable:
    """All of a module but the numbers in the tensors that it holds.

    Of a net of the zoo its name and their shapes tell it; another is looked through.
    """
    tensors = tuple((name, tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in held.items())
    if isinstance(module, Net) and module.architecture in ZOO:
        return module.architecture, module.training, tuple(module.heads), tensors
    return tensors, tuple((type(part), _attributes(part)) for part in module.modules())


def _attributes(part: nn.Module) -> Hashable:
    return tuple((name, value) for name, value in vars(part).items() if plain(value))


def plain(value: Any) -> bool:
    """Whether a value is compared as such."""
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(map(plain, value)))


def function_of(function: Any) -> Hashable:
    """A function with what it closes over. Raises Alone where that is an object that another client's need not be equal to."""
    if isinstance(function, partial):
        words = tuple((name, _value_of(value, name)) for name, value in sorted(function.keywords.items()))
        return function_of(function.func), tuple(_value_of(value, "an argument") for value in function.args), words
    if isinstance(function, MethodType):
        return function.__func__, _value_of(function.__self__, "self")
    if not isinstance(function, FunctionType):
        return _value_of(function, type(function).__name__)
    held = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    closed = tuple((name, _value_of(cell.cell_contents, name)) for name, cell in held)
    defaults = tuple(_value_of(value, "a default") for value in function.__defaults__ or ())
    return function.__code__, defaults, closed


def _value_of(value: Any, name: str) -> Hashable:
    if plain(value):
        return type(value), value
    if is_dataclass(value) and not isinstance(value, type) and type(value).__hash__ not in (None, object.__hash__):
        return cast(Hashable, value)  # a frozen one, as a strategy is: compared by its fields
    if isinstance(value, FunctionType | MethodType | partial):
        return function_of(value)
    if callable(value) and not isinstance(value, nn.Module) and not hasattr(value, "__dict__"):
        return cast(Hashable, value)  # of torch or Python
    raise Alone(f"its loss closes over {name}, a {type(value).__name__}: give it to fit as given=")


def optimizer_of(optimizer: torch.optim.Optimizer | None) -> Hashable:
    """An optimiser's kind, numbers and count of steps. Raises Alone for a user's, and where parameters differ in these."""
    if optimizer is None:
        return None
    if type(optimizer) not in _REMEMBERED:
        raise Alone(f"its optimiser is a {type(optimizer).__name__}")
    if len(optimizer.param_groups) != 1:
        raise Alone("its optimiser has groups of parameters")
    numbers = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    if numbers.get("dampening") or numbers.get("amsgrad"):
        raise Alone("its optimiser has dampening or amsgrad")
    return type(optimizer), tuple(numbers.items()), steps_of(optimizer)


def remembered(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """The names of the tensors that it keeps for each parameter."""
    names = _REMEMBERED[type(optimizer)]
    return names if optimizer.param_groups[0].get("momentum", 1.0) else ()


def steps_of(optimizer: torch.optim.Optimizer) -> float:
    """How many steps an Adam has made; 0 of what does not count them."""
    states = list(optimizer.state.values())
    counts = {float(state["step"]) for state in states if "step" in state} or {0.0}
    if len(counts) > 1:
        raise Alone("its optimiser has made other numbers of steps with some parameters")
    return counts.pop()


def is_state(value: Any) -> bool:
    """Whether an object that a loss is given may be changed by it: no constant, as tensors, nets and frozen dataclasses are."""
    if isinstance(value, Tensor | nn.Module | Mapping | tuple | list | Callable) or plain(value):
        return False
    return not (is_dataclass(value) and vars(type(value))["__dataclass_params__"].frozen)
