"""A net of the user's own: the function that makes it, and what it gives, made ready to be trained and sent."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedkd.base.errors import InputError, Notice
from fedkd.base.inputs import Shape, zeros
from fedkd.nets.load import copied
from fedkd.nets.options import net_options
from fedkd.nets.outputs import called

UserNet = Callable[..., nn.Module]
"""A user's function: net((C, H, W), classes, **options) -> an Encoder, or any module that gives logits."""


def check_function(name: str, function: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options to call a user's function with. InputError unless it is one that takes (shape, classes) and these options."""
    cure = "give a function (shape, classes) -> module"
    function = as_function(function)
    if features_option(function, options):
        options = {key: value for key, value in options.items() if key != "features"}
    if not callable(function):
        raise InputError(f"net {name!r} is a {type(function).__name__}: not a function (shape, classes) -> module")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some callables of C have none to look at
        return net_options(name, lambda shape, classes, **rest: None, options, given=2)
    by_place = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    all_names = ", ".join([*by_place, *["*"][: len(by_name)], *by_name])
    taken = f"net {name!r} takes ({all_names}), and it is given (shape, classes) by place"
    if len(by_place) < 2 and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise InputError(f"{taken}, the image's (C, H, W) and how many classes: {cure}")
    if by_place[:1] == ["classes"] or by_place[1:2] == ["shape"]:
        raise InputError(f"{taken}, in this order: swap its parameters")
    known = net_options(name, function, options, given=len(by_place[:2]))
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in optional and p.name not in by_place[:2]]
    if lacks := [parameter for parameter in needed if parameter not in known and parameter != "vocabulary"]:
        raise InputError(f"{taken}: give {', '.join(lacks)} a default, or a value in its net_options")
    return known


@final
@dataclass(frozen=True, eq=False)
class Copies:
    """A module that was given, as the function that makes nets: copies of it."""

    module: nn.Module

    def __call__(self, shape: Shape, classes: int) -> nn.Module:
        """A copy, with the weights as they are."""
        return copied(self.module)

    @property
    def source_text(self) -> str:
        """What is written down of it in a run: its layers, and a hash of its weights."""
        digest = hashlib.blake2b(digest_size=16)
        held = (*self.module.named_parameters(), *self.module.named_buffers())
        for name, tensor in (pair for pair in held if not is_lazy(pair[1])):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return f"# copies of a module, its weights {digest.hexdigest()}\n{self.module!r}"


def as_function(given: Any) -> Any:
    """What was given for a net as the function that makes it: a module becomes one that makes copies."""
    return Copies(given) if isinstance(given, nn.Module) else given


def features_option(function: Any, options: Mapping[str, Any]) -> Any:
    """The part of a user's net whose output its features are, as its options name it; empty where they do not."""
    return "" if _has_parameter(function, "features") else options.get("features", "")


def takes_vocabulary(function: Any) -> bool:
    """Whether a user's function has a parameter for how many token ids there are."""
    return _has_parameter(function, "vocabulary")


def _needs_vocabulary(function: Any) -> bool:
    """Whether its parameter of this name has no default."""
    return (
        takes_vocabulary(function) and inspect.signature(function).parameters["vocabulary"].default is inspect.Parameter.empty
    )


def _has_parameter(function: Any, name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def name_of(function: Callable[..., Any]) -> str:
    """A function's name as an experiment file would have it: "my_module:net"."""
    function = function.module if isinstance(function, Copies) else function
    named = function.func if isinstance(function, partial) else function
    named = named if hasattr(named, "__qualname__") else type(named)
    return f"{named.__module__}:{named.__qualname__}"


def make(name: str, function: Any, shape: Shape, classes: int, options: Mapping[str, Any], vocabulary: int = 0) -> nn.Module:
    """A module of a user's function, ready to be trained and sent: plain, with shapes, whole in its state dict.

    Raises:
        InputError: the function cannot be called so, or gives what is no module, or one that cannot be trained or sent.
    """
    known = check_function(name, function, options)
    if "vocabulary" not in known and (vocabulary or _needs_vocabulary(function)):
        known |= {"vocabulary": vocabulary} if takes_vocabulary(function) else {}
    made = function(shape, classes, **known)
    if not isinstance(made, nn.Module):
        given = "None" if made is None else f"a {type(made).__name__}"
        given = f"the class {made.__name__}, and not an instance" if inspect.isclass(made) else given
        raise InputError(f"net {name!r} returned {given}: it must return a torch.nn.Module")
    module = _plain(name, made)
    if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        _give_shapes(name, module, shape, bool(vocabulary))
    _check_state(name, module)
    return module


def _plain(name: str, module: nn.Module) -> nn.Module:
    """The module without compiler and parallel wrappers around it or its parts, which put words into the names of weights."""
    wrapped = dict.fromkeys(type(part).__name__ for part in module.modules() if _inside(part) is not None)
    if wrapped:
        said = " and ".join(wrapped)
        warnings.warn(
            f"net {name!r} comes compiled or wrapped ({said}): the plain net inside is trained and saved", Notice, stacklevel=2
        )
    while (inner := _inside(module)) is not None:
        module = inner
    for parent in module.modules():
        for key, child in parent.named_children():
            while (inner := _inside(child)) is not None:
                child = inner
                setattr(parent, key, child)
    return module


def _inside(module: nn.Module) -> nn.Module | None:
    """What torch.compile or a parallel wrapper wraps; None of any other module."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        wrapped: nn.Module = module.module
        return wrapped
    inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def _give_shapes(name: str, module: nn.Module, shape: Shape, tokens: bool) -> None:
    """Lazy layers get their shapes, and draw their weights, from a batch of zeros in eval mode."""
    modes = {part: part.training for part in module.modules()}
    with torch.no_grad():
        called(module.eval(), zeros(shape, 2, tokens=tokens))
    for part in module.modules():
        part.training = modes.get(part, True)
    if left := [key for key, parameter in module.named_parameters() if is_lazy(parameter)]:
        raise InputError(f"net {name!r}: {left[0]} has no shape after a batch in eval mode: give its layer a size")


def _check_state(name: str, module: nn.Module) -> None:
    """InputError unless all that is trained is in the state dict, and nothing there is a copy or no tensor."""
    own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    state = module.state_dict(keep_vars=True)
    if odd := [key for key, value in state.items() if not isinstance(value, Tensor) or id(value) not in own]:
        raise InputError(
            f"net {name!r}: {odd[0]} in its state dict is none of its parameters and buffers, so it can be neither sent nor "
            "restored: hold it in a buffer (register_buffer)"
        )
    saved = {id(value) for value in state.values()}
    trained = {key: parameter for key, parameter in module.named_parameters() if parameter.requires_grad}
    if left := [key for key, parameter in trained.items() if id(parameter) not in saved]:
        raise InputError(f"net {name!r}: its state dict leaves {left[0]} out, which is trained: freeze it, or let it be saved")
