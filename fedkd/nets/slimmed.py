"""A net made narrower for a pass: each layer keeps its first channels, and the classifier reads what is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from fedkd.base.errors import InputError
from fedkd.nets.net import Net

#: Layers that mix the channels that are there with those that are not.
_MIXING = (nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention, nn.RNNBase)


@contextmanager
def slimmed(net: Net, width: float) -> Iterator[Net]:
    """The net with this share of the channels of every layer but the last; at least one of each.

    What is left away is zero from layer to layer, which gives what a net of the first channels alone would: at the cost of
    the whole. BatchNorm's running statistics are those of the whole net and stay as they are, in train mode too; a narrower
    net in eval mode needs others.

    Args:
        net: without layers that mix channels, as ``check_slimmable`` asks.
        width: above 0, at most 1.
    """
    classifier = net.classifier
    layers = [part for part in net.encoder.modules() if isinstance(part, _ConvNd | nn.Linear | _BatchNorm)]
    with ExitStack() as undo:
        for layer in layers if width < 1 else ():
            if layer is not classifier:
                undo.callback(layer.register_forward_hook(partial(_cut, width)).remove)
            if isinstance(layer, _BatchNorm) and layer.training and layer.track_running_stats:
                layer.track_running_stats = False
                undo.callback(setattr, layer, "track_running_stats", True)
        yield net


def check_slimmable(net: Net) -> None:
    """InputError where a net has a layer that mixes channels, or no classifier that can be told from its other layers."""
    _ = net.classifier  # an InputError where it has none
    if mixing := next((part for part in net.encoder.modules() if isinstance(part, _MIXING)), None):
        raise InputError(
            f"net {net.architecture!r} has a {type(mixing).__name__}, which mixes the channels that a narrower net has not: "
            "take an mlp, cnn, cnn1d or resnet18 with BatchNorm or without a norm"
        )


def _cut(width: float, layer: nn.Module, read: tuple[Any, ...], made: Tensor) -> Tensor:
    """Zeros in place of all channels but the first: the second axis, of a linear layer the last."""
    axis = made.dim() - 1 if isinstance(layer, nn.Linear) else 1
    channels = made.shape[axis]
    kept = torch.arange(channels, device=made.device) < max(1, round(width * channels))
    return made * kept.view([channels if place == axis else 1 for place in range(made.dim())])
