"""Samples: some rows of a data set, without copying a pixel until a batch is taken."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Samples:
    """A view on a data set: which rows, and what may be known about them."""

    images: Tensor  # (N, C, H, W) uint8: the whole set, shared by all views
    labels: Tensor  # (N,) int64: -1 where a label may not be used
    indices: Tensor  # (M,) int64: the rows of this view, which are also the samples' ids
    mean: Tensor  # (C,) for normalise
    std: Tensor  # (C,)
    classes: int

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, H, W) uint8, labels (B,) and ids (B,) at positions (B,), each in 0..len-1."""
        ids = self.indices[positions]
        return self.images[ids], self.labels[ids], ids

    def subset(self, positions: Tensor) -> Samples:
        """Only the samples at these positions, in their order."""
        return replace(self, indices=self.indices[positions])

    def labelled(self) -> Samples:
        """Only the samples whose label may be used; this very object where that is all of them."""
        known = self.labels[self.indices] >= 0  # (M,)
        return self if bool(known.all()) else replace(self, indices=self.indices[known])

    def label_counts(self) -> Tensor:
        """How many samples of each class there are, of those whose label may be used. Shape (classes,)."""
        labels = self.labels[self.indices]  # (M,)
        return torch.bincount(labels[labels >= 0], minlength=self.classes)


def normalise(images: Tensor, mean: Tensor, std: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Channels of mean 0 and standard deviation 1: (x / 255 - mean) / std, for uint8 images (B, C, H, W)."""
    return standardise(images.float().div_(255), mean, std).to(dtype)


def standardise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std by channel, for pixels (B, C, H, W) in 0..1; mean and std are (C,)."""
    mean, std = (moment.to(pixels.device)[:, None, None] for moment in (mean, std))
    return (pixels - mean) / std
