"""From a name in an experiment file to a net with fresh weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from fedkd.base.errors import InputError, did_you_mean
from fedkd.nets.encoder import Encoder
from fedkd.nets.heads import HEADS
from fedkd.nets.net import Net
from fedkd.nets.options import net_options
from fedkd.nets.user_net import check_function, make, name_of
from fedkd.nets.zoo import ZOO, find_user_net


def build_net(
    architecture: str | Callable[..., nn.Module],
    *,
    shape: tuple[int, int, int],
    classes: int,
    heads: tuple[str, ...] = ("classifier",),
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Net:
    """A net with fresh weights, drawn from torch's global generator, which the caller seeds.

    The encoder is drawn before the heads, and these in the order asked for.

    Args:
        architecture: a name in ``ZOO`` or in entry point group "fedkd.nets", "my_module:net", or a function
            ``(shape, classes, **options)`` that returns an ``Encoder`` or any module that gives logits.
        shape: (C, H, W) of an image.
        classes: how many, C of the logits.
        heads: names in ``HEADS``; a module that gives logits has only "classifier", itself.
        options: the architecture's own, such as width; lists become tuples.

    Raises:
        InputError: an unknown net, option or head, a bad value, images too small for the net, a function that does
            not return a module.

    >>> net = build_net("cnn", shape=(1, 28, 28), classes=10)
    >>> sum(parameter.numel() for parameter in net.parameters())
    52138
    """
    name, encoder, memory_format = _build_encoder(architecture, shape, classes, options)
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


def check_net(name: str, options: Mapping[str, Any], *, shape: tuple[int, int, int] = (1, 512, 512)) -> None:
    """InputError where an experiment names an unknown net, or gives it unknown or bad options.

    A net of the zoo is laid out without memory or random draws, for images of ``shape``; with the real one, images
    that are too small are found too. Of a user's net, only that it exists and knows the options is checked.
    """
    if name not in ZOO:
        check_function(name, find_user_net(name), options)
        return
    with torch.device("meta"):
        ZOO[name](shape, **net_options(name, ZOO[name], options, given=1))


def _build_encoder(
    architecture: str | Callable[..., nn.Module], shape: tuple[int, int, int], classes: int, options: Mapping[str, Any]
) -> tuple[str, nn.Module, torch.memory_format]:
    """The name of an architecture, a fresh module of it, and how it wants images to lie."""
    if isinstance(architecture, str) and architecture in ZOO:
        factory = ZOO[architecture]
        encoder = factory(shape, **net_options(architecture, factory, options, given=1))
        return architecture, encoder, torch.channels_last
    if isinstance(architecture, str):
        name, function = architecture, find_user_net(architecture)
    else:
        name, function = name_of(architecture), architecture
    return name, make(name, function, shape, classes, options), torch.contiguous_format
