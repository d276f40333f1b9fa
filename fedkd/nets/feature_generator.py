"""A net that makes features of a class out of noise: for methods that have no public samples."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@final
class FeatureGenerator(nn.Module):
    """Noise and a class -> a feature, as a classifier reads it: Linear, BatchNorm, ReLU, Linear.

    Zhu et al. 2021, arXiv 2105.10056, in the form of the authors' code. What it makes may be negative, also where the features
    of a net, behind its last ReLU, are not.

    Args:
        classes: C.
        width: D, of a feature.
        noise: how many random numbers there are to a feature.
        hidden: width of the layer between.

    >>> net = FeatureGenerator(10, 64, noise=32, hidden=256)
    >>> net(torch.rand(5, 32), torch.tensor([0, 1, 2, 3, 3])).shape
    torch.Size([5, 64])
    """

    def __init__(self, classes: int, width: int, *, noise: int, hidden: int) -> None:
        super().__init__()
        self.classes, self.noise = classes, noise
        self.hidden = nn.Linear(noise + classes, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.last = nn.Linear(hidden, width)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Features (B, D) of noise (B, noise) and class ids (B,) int64."""
        given = torch.cat([noise, F.one_hot(labels, self.classes).to(noise.dtype)], dim=1)
        features: Tensor = self.last(F.relu(self.norm(self.hidden(given))))
        return features
