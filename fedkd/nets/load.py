"""Overwriting what a net holds, and what it holds beside its state dict; copies of it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def load(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Overwrite every parameter and buffer of a net. Raises ValueError naming what is missing or has another shape."""
    own = net.state_dict(keep_vars=True)
    if own.keys() != weights.keys():
        odd = sorted(own.keys() ^ weights.keys())[:3]
        raise ValueError(f"these weights are not the net's: {', '.join(odd)} missing or unexpected, of {len(own)} tensors")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, the weights {tuple(weights[name].shape)}")
    torch._foreach_copy_(list(own.values()), [weights[name] for name in own])


def unsaved_buffers(net: nn.Module) -> dict[str, Tensor]:
    """The buffers that its state dict leaves out (``persistent=False``), by name."""
    saved = {id(tensor) for tensor in net.state_dict(keep_vars=True).values()}
    return {name: buffer for name, buffer in net.named_buffers() if id(buffer) not in saved}


def copied(module: M) -> M:
    """A deep copy. Tensors among its attributes that were computed, as weight normalisation has them, are copied as numbers."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        computed = (value for value in vars(part).values() if isinstance(value, Tensor) and not value.is_leaf)
        memo |= {id(tensor): tensor.detach().clone() for tensor in computed}
    return deepcopy(module, memo)
