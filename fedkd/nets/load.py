"""Overwriting what a net holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


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
        tensor.copy_(weights[name])
