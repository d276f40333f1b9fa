"""A generator: a net that makes samples of noise, for methods that have no samples."""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: The deviation of initial weights, as in DCGAN (arXiv 1511.06434).
SPREAD = 0.02


@final
class Generator(nn.Module):
    """Makes samples of noise, and of labels where it is told of classes: as nets take them, normalised.

    Images come from convolutions, twice upsampled, as in DENSE; vectors and signals from two hidden layers. What is made lies
    where nets' inputs do: pixels of 0..1 are standardised as real ones are, all else has mean 0 and deviation 1 over the batch,
    channel by channel or feature by feature. Its norms use the batch at hand, in eval mode too.

    Args:
        shape: of a sample: (C, H, W), (F,) or (L, F).
        noise: how many numbers it gets for each sample.
        classes: how many there are, of which it is told one for each sample; 0: it is told none.
        width: channels of the last hidden map of images, twice as many before; a hidden layer of others has 4 times as many.
        pixels: mean and deviation (C,) by which pixels of 0..1 are standardised, of no numbers where they are not; None for
            samples that are real numbers.

    >>> generator = Generator((3,), noise=5, classes=2)
    >>> samples = generator(torch.randn(8, 5), torch.zeros(8, dtype=torch.int64))
    >>> samples.shape, samples.mean(0).abs().max().item() < 1e-5
    (torch.Size([8, 3]), True)
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        noise: int,
        classes: int = 0,
        width: int = 64,
        pixels: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.noise, self.classes = shape, noise, classes
        make = _of_images if len(shape) == 3 else _of_features
        self.body = make(shape, noise + classes, width)
        self.last: nn.Module = (
            Standardised(*pixels) if pixels else _norm(shape[0] if len(shape) == 3 else shape[-1], len(shape))
        )

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, *shape) of noise (B, noise), and of labels (B,) int64 where it is told of classes.

        Raises:
            ValueError: labels are missing, or there are some that it does not take.
        """
        if (labels is None) != (self.classes == 0):
            takes = (
                f"takes a label of {self.classes} classes for each sample, and got none"
                if labels is None
                else "takes no labels"
            )
            raise ValueError(f"this generator {takes}")
        if labels is not None:
            noise = torch.cat([noise, F.one_hot(labels, self.classes).to(noise.dtype)], 1)
        made = self.body(noise)
        if len(self.shape) == 3:
            made = made[..., : self.shape[1], : self.shape[2]]  # sides that are no multiple of 4 were rounded up
            samples: Tensor = self.last(made)
            return samples
        features: Tensor = self.last(made.view(-1, self.shape[-1]))
        return features.view(-1, *self.shape)

    @torch.no_grad()
    def redraw(self, rng: torch.Generator) -> None:
        """Start anew, with normal weights of deviation 0.02, those of norms around 1, and no biases."""
        for part in self.modules():
            for name, parameter in part.named_parameters(recurse=False):
                drawn = torch.randn(parameter.shape, generator=rng) * SPREAD
                around = float(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d))
                parameter.copy_(torch.zeros_like(drawn) if name == "bias" else around + drawn)


@final
class Standardised(nn.Module):
    """Pixels of 0..1, standardised by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of any numbers -> the same."""
        pixels = x.sigmoid()
        return (pixels - self.mean) / self.std if len(self.mean) else pixels


@final
class Maps(nn.Module):
    """Rows of numbers as small maps, channels last in memory."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.sides = height, width, channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels * height * width) -> (B, channels, height, width)."""
        maps: Tensor = x.unflatten(1, self.sides).movedim(-1, 1)
        return maps


def _of_images(shape: tuple[int, ...], inputs: int, width: int) -> nn.Module:
    channels, height, breadth = shape
    high, broad = math.ceil(height / 4), math.ceil(breadth / 4)
    layers = nn.Sequential(
        nn.Linear(inputs, 2 * width * high * broad),
        Maps(2 * width, high, broad),
        _batch_norm(nn.BatchNorm2d, 2 * width),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
        _batch_norm(nn.BatchNorm2d, 2 * width),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
        _batch_norm(nn.BatchNorm2d, width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, channels, 3, padding=1),
    )
    layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return layers


def _of_features(shape: tuple[int, ...], inputs: int, width: int) -> nn.Module:
    hidden = 4 * width
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False),
        _batch_norm(nn.BatchNorm1d, hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, hidden, bias=False),
        _batch_norm(nn.BatchNorm1d, hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, math.prod(shape)),
    )


def _norm(features: int, dimensions: int) -> nn.Module:
    kind = nn.BatchNorm2d if dimensions == 3 else nn.BatchNorm1d
    return _batch_norm(kind, features, affine=False)


def _batch_norm(kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d], features: int, *, affine: bool = True) -> nn.Module:
    """One without running statistics: generators are asked for whole batches."""
    return kind(features, affine=affine, track_running_stats=False)
