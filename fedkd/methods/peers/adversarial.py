"""Feature maps learnt from another net's by discriminators: one that tells them apart, and the net that is to fool it.

Least squares: what the discriminator says of the other's map is to be 1, of the own map 0; the net wants 1 of its own.
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn


@final
class Discriminator(nn.Module):
    """How much a map looks like another net's, between 0 and 1: two 3x3 convolutions, pooling, a linear layer, a sigmoid.

    It has no BatchNorm: that would normalise own and other's maps each by themselves, and hide how they differ.

    Args:
        channels: c of the maps.

    >>> import torch
    >>> Discriminator(8)(torch.zeros(5, 8, 4, 4)).shape
    torch.Size([5])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1), nn.Sigmoid()),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B,) of maps (B, c, h, w)."""
        told: Tensor = self.layers(maps)
        return told.squeeze(1).float()


def fooling_loss(discriminator: nn.Module, own: Tensor) -> Tensor:
    """What a net wants: the mean over maps (B, c, h, w) of (1 - D(own))^2; ()."""
    says: Tensor = discriminator(own)
    return (1 - says).square().mean()


def telling_loss(discriminator: nn.Module, own: Tensor, other: Tensor) -> Tensor:
    """What a discriminator wants: the means of (1 - D(other))^2 and of D(own)^2 together; maps are constants; ().

    Of equal maps it is one half at best, where D says one half.
    """
    of_other: Tensor = discriminator(other.detach())
    of_own: Tensor = discriminator(own.detach())
    return (1 - of_other).square().mean() + of_own.square().mean()
