"""Images in grey or in colour."""

from __future__ import annotations

import torch
from torch import Tensor


def in_channels(images: Tensor, channels: int) -> Tensor:
    """The images (N, 1 or 3, H, W) uint8 with so many channels: grey ones repeated, coloured ones weighed as Pillow does."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    red, green, blue = images.int().unbind(1)  # (N, H, W)
    luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16  # ITU-R 601-2, in 65536ths, rounded
    return luma.to(torch.uint8).unsqueeze(1)
