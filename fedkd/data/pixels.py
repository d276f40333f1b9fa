"""Pixels of uint8 images: their moments, and grey or colour."""

from __future__ import annotations

import torch
from torch import Tensor


def channel_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) of each channel of uint8 images (N, C, H, W), pixels in 0..1.

    Counting pixel values makes them exact, so the number of threads does not change a bit.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])  # (C, 256)
    shares = counts.double() / counts.sum(1, keepdim=True)  # (C, 256)
    mean = (shares * values).sum(1)  # (C,)
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)  # (C,)
    std = torch.where(variance > 0, variance.sqrt(), 1.0)
    return mean.float(), std.float()


def in_channels(images: Tensor, channels: int) -> Tensor:
    """The images (N, 1 or 3, H, W) uint8 with so many channels: grey ones repeated, coloured ones weighed as Pillow does."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    red, green, blue = images.int().unbind(1)  # (N, H, W)
    luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16  # ITU-R 601-2, in 65536ths, rounded
    return luma.to(torch.uint8).unsqueeze(1)
