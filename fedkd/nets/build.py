"""From a name in an experiment file to a net with fresh weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from fedkd.base.errors import InputError, did_you_mean
from fedkd.base.inputs import Shape
from fedkd.nets.encoder import Encoder
from fedkd.nets.heads import HEADS
from fedkd.nets.net import Net
from fedkd.nets.user_net import check_function, make, name_of
from fedkd.nets.zoo import ZOO, find_user_net, zoo_encoder


def build_net(
    architecture: str | Callable[..., nn.Module],
    *,
    shape: Shape,
    classes: int,
    heads: tuple[str, ...] = ("classifier",),
    options: Mapping[str, Any] = MappingProxyType({}),
    vocabulary: int = 0,
) -> Net:
    """A net with fresh weights, drawn from torch's global generator, which the caller seeds.

    The encoder is drawn before the heads, and these in the order asked for.

    Args:
        architecture: a name in ``ZOO`` or in entry point group "fedkd.nets", "my_module:net", or a function
            ``(shape, classes, **options)`` that returns an ``Encoder`` or any module that gives logits.
        shape: of a sample: (C, H, W) of an image, (F,) of a vector, (L, F) of a signal, (L,) of tokens, or shapes by name.
        classes: how many, C of the logits.
        heads: names in ``HEADS``; a module that gives logits has only "classifier", itself.
        options: the architecture's own, such as width; lists become tuples.
        vocabulary: of tokens: how many ids there are. A function of yours gets it if it has a parameter of this name.

    Raises:
        InputError: an unknown net, option or head, a bad value, samples that the net does not take, a function that does
            not return a module.

    >>> net = build_net("cnn", shape=(1, 28, 28), classes=10)
    >>> sum(parameter.numel() for parameter in net.parameters())
    52138
    """
    name, encoder, memory_format = _build_encoder(architecture, shape, classes, options, vocabulary)
    for head in heads:
        if head not in HEADS:
            raise InputError(f"net {name!r}: head {head!r} is unknown: {did_you_mean(head, HEADS)}")
    if isinstance(encoder, Encoder):
        width = getattr(encoder, "out_features", None)
        if type(width) is not int:
            raise InputError(f"net {name!r}: {type(encoder).__name__} must set out_features, the width of its features")
        made = {head: HEADS[head](width, classes) for head in heads}
        return Net(name, encoder, made, width=width, memory_format=memory_format)
    if beyond := [head for head in heads if head != "classifier"]:
        raise InputError(f"net {name!r} gives logits only: subclass fedkd.nets.Encoder to put heads {beyond} on it")
    return Net(name, encoder, {"classifier": nn.Identity()}, width=classes, memory_format=memory_format)


def check_net(name: str, options: Mapping[str, Any], *, shape: Shape | None = None, vocabulary: int = 0) -> None:
    """InputError where an experiment names an unknown net, or gives it unknown or bad options.

    A net of the zoo is laid out without memory or random draws, for samples of ``shape``; with the real one, samples
    that it does not take are found too. Of a user's net, only that it exists and knows the options is checked.
    """
    if name not in ZOO:
        check_function(name, find_user_net(name), options)
        return
    with torch.device("meta"):
        zoo_encoder(name, options, shape=shape, vocabulary=vocabulary)


def _build_encoder(
    architecture: str | Callable[..., nn.Module], shape: Shape, classes: int, options: Mapping[str, Any], vocabulary: int
) -> tuple[str, nn.Module, torch.memory_format]:
    """The name of an architecture, a fresh module of it, and how it wants images to lie."""
    if isinstance(architecture, str) and architecture in ZOO:
        encoder = zoo_encoder(architecture, options, shape=shape, vocabulary=vocabulary)
        return architecture, encoder, torch.channels_last
    if isinstance(architecture, str):
        name, function = architecture, find_user_net(architecture)
    else:
        name, function = name_of(architecture), architecture
    return name, make(name, function, shape, classes, options, vocabulary), torch.contiguous_format
