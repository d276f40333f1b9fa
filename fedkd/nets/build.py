"""From a name in an experiment file to a net with fresh weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from fedkd.base.errors import InputError, did_you_mean
from fedkd.base.inputs import Shape
from fedkd.nets.encoder import Encoder
from fedkd.nets.heads import HEADS
from fedkd.nets.net import Net
from fedkd.nets.tap import check_place, find_tap
from fedkd.nets.user_net import as_function, check_function, features_option, make, name_of
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
            ``(shape, classes, **options)`` that returns an ``Encoder`` or any module that gives logits, or such a module.
        shape: of a sample: (C, H, W) of an image, (F,) of a vector, (L, F) of a signal, (L,) of tokens, or shapes by name.
        classes: how many, C of the logits.
        heads: names in ``HEADS``; the "classifier" of a module that gives logits is its own.
        options: the architecture's own, such as width; lists become tuples. ``features`` of a module that gives logits: the
            name of the part whose output its features are; default, what its last linear layer reads.
        vocabulary: of tokens: how many ids there are. A function of yours gets it if it has a parameter of this name.

    Raises:
        InputError: an unknown net, option or head, a bad value, samples that the net does not take, a function that does
            not return a module.

    >>> net = build_net("cnn", shape=(1, 28, 28), classes=10)
    >>> sum(parameter.numel() for parameter in net.parameters())
    52138
    """
    if isinstance(architecture, str) and architecture in ZOO:
        encoder = zoo_encoder(architecture, options, shape=shape, vocabulary=vocabulary)
        _check_heads(architecture, heads)
        return _with_heads(architecture, encoder, heads, classes, torch.channels_last)
    name, function = _found(architecture)
    _check_heads(name, heads)
    module = make(name, function, shape, classes, options, vocabulary)
    place = features_option(function, options)
    if isinstance(module, Encoder):
        if place:
            raise InputError(f"net {name!r}: an Encoder gives its features itself: leave features out of its net_options")
        return _with_heads(name, module, heads, classes, torch.contiguous_format)
    if place:
        check_place(name, module, place)
    find = partial(find_tap, name, shape=shape, vocabulary=vocabulary, place=place)
    net = Net(name, module, {"classifier": nn.Identity()}, width=classes, find=find)
    for head in heads:
        if head != "classifier":  # that is the module's own
            net.heads[head] = HEADS[head](net.feature_width, classes)
    return net


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


def _found(architecture: str | Callable[..., nn.Module]) -> tuple[str, Callable[..., nn.Module]]:
    """The name of a user's net, and the function that makes it."""
    if isinstance(architecture, str):
        return architecture, as_function(find_user_net(architecture))
    return name_of(architecture), as_function(architecture)


def _check_heads(name: str, heads: tuple[str, ...]) -> None:
    for head in heads:
        if head not in HEADS:
            raise InputError(f"net {name!r}: head {head!r} is unknown: {did_you_mean(head, HEADS)}")


def _with_heads(name: str, encoder: Encoder, heads: tuple[str, ...], classes: int, memory_format: torch.memory_format) -> Net:
    """An encoder with heads that are drawn now."""
    width = getattr(encoder, "out_features", None)
    if type(width) is not int:
        raise InputError(f"net {name!r}: {type(encoder).__name__} must set out_features, the width of its features")
    made = {head: HEADS[head](width, classes) for head in heads}
    return Net(name, encoder, made, width=width, memory_format=memory_format)
