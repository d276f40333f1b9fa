"""What a client may go on from: a training can end in weights that are not finite, and its upload is refused."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def is_finite(net: nn.Module) -> bool:
    """Whether every parameter is a finite number; one look at the device.

    >>> layer = nn.Linear(1, 1)
    >>> before = is_finite(layer)
    >>> _ = nn.init.constant_(layer.bias, torch.nan)
    >>> before, is_finite(layer)
    (True, False)
    """
    return bool(torch.stack([parameter.isfinite().all() for parameter in net.parameters()]).all())
