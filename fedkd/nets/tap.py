"""The features of a module that gives logits: what its last linear layer reads, or what a part of it that is named gives."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError, did_you_mean
from fedkd.base.inputs import Inputs, Shape
from fedkd.base.randomness import generator
from fedkd.nets.outputs import called, logits_of


@final
@dataclass(frozen=True)
class Tap:
    """Where a module's features are, and the layer that makes logits of them."""

    place: str  # the name of a part; empty: the features are what ``last`` reads
    last: str  # the name of the linear layer whose output the logits are; empty: there is none, or it reads something else
    width: int  # D


def find_tap(net: str, module: nn.Module, shape: Shape, vocabulary: int, place: str) -> Tap | None:
    """Where a module's features are, told by one pass in eval mode; None where it gives logits only.

    Args:
        net: its name, for messages.
        module: gives logits.
        shape: of a sample.
        vocabulary: of tokens: how many ids there are.
        place: the part whose output its user says they are; empty: the input of its last linear layer.

    Raises:
        InputError: the part that was named gives no features.
    """
    modes = {part: part.training for part in module.modules()}
    where = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    layers = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    seen: dict[str, tuple[Any, Any]] = {}
    with torch.no_grad(), ExitStack() as hooks:
        for name in (*layers, place) if place else layers:
            handle = module.get_submodule(name).register_forward_hook(partial(_note, seen, name))
            hooks.callback(handle.remove)
        logits = logits_of(called(module.eval(), _trial(shape, vocabulary, where)), net)
    for part in module.modules():
        part.training = modes.get(part, True)
    fitting = [name for name in layers if name in seen and _equal(seen[name][1], logits) and _is_table(seen[name][0])]
    last = fitting[-1] if fitting else ""
    if place:
        features = _flat(net, place, seen.get(place, (None, None))[1])
        return Tap(place, last if last and _equal(seen[last][0], features) else "", features.shape[1])
    return Tap("", last, seen[last][0].shape[1]) if last else None


def check_place(net: str, module: nn.Module, place: Any) -> None:
    """InputError unless a module has a part of this name."""
    names = [name for name, _ in module.named_modules() if name]
    if place not in names:
        raise InputError(f"net {net!r}: its features are said to be those of {place!r}: {did_you_mean(str(place), names)}")


def tapped(net: str, module: nn.Module, tap: Tap, inputs: Inputs) -> tuple[Any, Tensor]:
    """What a module gives of samples, and their features (B, D), in one pass. The module is left as it was."""
    seen: dict[str, tuple[Any, Any]] = {}
    name = tap.place or tap.last
    handle = module.get_submodule(name).register_forward_hook(partial(_note, seen, name))
    try:
        given = called(module, inputs)
    finally:
        handle.remove()
    read, made = seen.get(name, (None, None))
    return given, _flat(net, name, made if tap.place else read)


def _note(seen: dict[str, tuple[Any, Any]], name: str, part: nn.Module, read: tuple[Any, ...], made: Any) -> None:
    """What a part read and made, its last call counts."""
    seen[name] = (read[0] if read else None, made)


def _flat(net: str, place: str, found: Any) -> Tensor:
    """Features (B, D) of what a part gave."""
    if not isinstance(found, Tensor) or found.dim() < 2 or not found.is_floating_point():
        given = f"{tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise InputError(f"net {net!r}: {place!r} gives {given}, and no features (B, ...): name another part in features")
    return found.flatten(1)


def _is_table(read: Any) -> bool:
    return isinstance(read, Tensor) and read.dim() == 2


def _equal(one: Any, other: Tensor) -> bool:
    return isinstance(one, Tensor) and one.shape == other.shape and torch.equal(one, other)


def _trial(shape: Shape, vocabulary: int, device: torch.device) -> Inputs:
    """Two samples: noise, or tokens and their mask, which are all 1."""

    def made(name: str, held: tuple[int, ...]) -> Tensor:
        if not vocabulary:
            return torch.randn(2, *held, generator=generator(0, "samples")).to(device)
        return torch.full((2, *held), int(name in ("", "input_ids", "attention_mask")), device=device).clamp_max(vocabulary - 1)

    return {name: made(name, held) for name, held in shape.items()} if isinstance(shape, Mapping) else made("", shape)
