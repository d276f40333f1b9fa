"""Images: (C, H, W), of 8 or 16 bits or real numbers, with any number of channels."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs
from fedkd.data.kinds.kind import CHUNK, Kind, Moments, Spread, check_finite, spread_of, tensor_of

#: The largest value of each type that pixels are stored in.
LARGEST = {torch.uint8: 255, torch.uint16: 65535}


@final
class Image(Kind):
    """Pixels (B, C, H, W) are brought to 0..1 where they are integers, and standardised by channel."""

    name: ClassVar[str] = "image"

    def check(self, where: str, inputs: Inputs) -> None:
        """uint8, uint16 or floating (N, C, H, W)."""
        images = tensor_of(where, "an image", inputs)
        if images.dim() != 4 or not (images.dtype in LARGEST or images.is_floating_point()):
            shape = f"{images.dtype} {tuple(images.shape)}"
            raise InputError(f"{where}: images must be uint8, uint16 or real numbers (N, C, H, W), not {shape}")
        if images.is_floating_point():
            check_finite(where, images, "column")

    def measure(self, inputs: Inputs, rows: Tensor) -> Moments:
        """Of each channel, of pixels in 0..1."""
        return self.spread(inputs, rows).moments()

    def spread(self, inputs: Inputs, rows: Tensor) -> Spread:
        """Likewise."""
        assert isinstance(inputs, Tensor)
        return spread_of_bytes(inputs, rows) if inputs.dtype == torch.uint8 else spread_of_pixels(inputs, rows)

    def scale(self, inputs: Inputs) -> Inputs:
        """Pixels in 0..1; real numbers as they are."""
        assert isinstance(inputs, Tensor)
        return pixels_of(inputs)

    def standardise(self, inputs: Inputs, moments: Moments) -> Inputs:
        """By channel."""
        assert isinstance(inputs, Tensor)
        return standardise(inputs, *moments)


def pixels_of(images: Tensor) -> Tensor:
    """Pixels in 0..1 of 8 or 16 bits; real numbers as they are. float32."""
    largest = LARGEST.get(images.dtype)
    return images.float().div_(largest) if largest else images.float()


def standardise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std by channel, for pixels (B, C, H, W); mean and std are (C,), or (0,) to leave them as they are."""
    if not len(mean):
        return pixels
    mean, std = (moment.to(pixels.device)[:, None, None] for moment in (mean, std))
    return (pixels - mean).div_(std)


def normalise(images: Tensor, mean: Tensor, std: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Channels of mean 0 and standard deviation 1, of images (B, C, H, W)."""
    return standardise(pixels_of(images), mean, std).to(dtype)


def spread_of_bytes(images: Tensor, rows: Tensor) -> Spread:
    """How the pixels of uint8 images (N, C, H, W), brought to 0..1, spread in each channel, (C,).

    Counting pixel values makes it exact, so the number of threads does not change a bit.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for some in rows.split(CHUNK):
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images[some].unbind(1)])
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts.double() / counts.sum(1, keepdim=True)  # (C, 256)
    mean = (shares * values).sum(1)  # (C,)
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)  # (C,)
    return Spread(len(rows), mean, variance)


def spread_of_pixels(images: Tensor, rows: Tensor) -> Spread:
    """The same of 16-bit and real pixels."""
    chunks = (pixels_of(images[some]).movedim(1, -1).flatten(0, -2) for some in rows.split(CHUNK))
    return spread_of(chunks, images.shape[1])._replace(rows=len(rows))
