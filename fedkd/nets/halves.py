"""A net in two, cut at a level: the trunk, and a tail that gives logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs
from fedkd.nets.encoder import Chain, Encoder, cut_in_two
from fedkd.nets.net import Net, laid_out
from fedkd.nets.outputs import called


@final
@dataclass(frozen=True, eq=False)
class Halves:
    """Two modules that hold a net's own weights; one after the other they give its logits."""

    trunk: nn.Module
    tail: nn.Module  # map -> logits (B, C)
    memory_format: torch.memory_format

    def map_of(self, inputs: Inputs) -> Tensor:
        """The trunk's map of samples (B, ...)."""
        held: Tensor = called(self.trunk, laid_out(inputs, self.memory_format))
        return held


def cut_net(net: Net, level: int) -> Halves:
    """A net cut behind its first ``level`` parts; its classifier ends the tail.

    Raises:
        InputError: a net that gives logits only, or cannot be cut there.

    >>> from fedkd.nets import build_net
    >>> halves = cut_net(build_net("mlp", shape=(1, 8, 8), classes=10), 1)
    >>> held = halves.map_of(torch.zeros(5, 1, 8, 8))
    >>> held.shape, halves.tail(held).shape
    (torch.Size([5, 200]), torch.Size([5, 10]))
    """
    trunk, tail = cut_in_two(encoder_of(net), level)
    return Halves(trunk, Chain([tail, net.heads["classifier"]]), net.memory_format)


def parts_of(net: Net) -> tuple[nn.Module, ...]:
    """A net's parts, from samples to features, two or more. InputError as ``cut_net`` raises it."""
    encoder = encoder_of(net)
    parts = encoder.in_parts()
    if len(parts) < 2:
        cut_in_two(encoder)  # says why not
    return parts


def encoder_of(net: Net) -> Encoder:
    """A net's encoder; InputError for a user's module that gives logits only."""
    if not isinstance(net.encoder, Encoder):
        name = net.architecture
        raise InputError(f"net {name!r} gives logits only: subclass fedkd.nets.Encoder and override in_parts to cut it")
    return net.encoder
