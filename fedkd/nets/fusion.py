"""Feature maps of several nets made into one, and a classifier on it. Kim et al. 2019, arXiv 1904.09058."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn


@final
class Fusion(nn.Module):
    """A classifier on the last feature maps of K nets: a separable convolution of all of them, pooling, a linear layer.

    Args:
        nets: K.
        channels: c of each net's map, and of the fused one.
        classes: C.

    >>> import torch
    >>> fused, logits = Fusion(2, 8, 10)(torch.zeros(5, 2, 8, 4, 4))
    >>> fused.shape, logits.shape
    (torch.Size([5, 8, 4, 4]), torch.Size([5, 10]))
    """

    def __init__(self, nets: int, channels: int, classes: int) -> None:
        super().__init__()
        self.convolution = separable(nets * channels, channels)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The fused map (B, c, h, w), after its ReLU, and logits (B, C) of maps (B, K, c, h, w)."""
        fused = self.convolution(maps.flatten(1, 2))
        return fused, self.classifier(fused.mean((2, 3)))


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution of each channel by itself, and one of 1x1 over all, each with BatchNorm and ReLU; the size stays.

    Args:
        inputs: channels of the map that it takes.
        outputs: channels of the map that it gives.
    """
    layers = nn.Sequential(
        *(nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False), nn.BatchNorm2d(inputs), nn.ReLU()),
        *(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
    )
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layers
