"""Samples: some rows of a data set, without copying one until a batch is taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fedkd.base.inputs import Inputs, rows
from fedkd.data.kinds import Kind, Moments


@dataclass(frozen=True, eq=False)
class Samples:
    """A view on a data set: which rows, and what may be known about them."""

    inputs: Inputs  # (N, ...): the whole set, shared by all views
    labels: Tensor  # (N,) int64: -1 where a label may not be used
    indices: Tensor  # (M,) int64: the rows of this view, which are also the samples' ids
    kind: Kind
    moments: Moments  # what they are normalised by
    classes: int

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: Tensor) -> tuple[Inputs, Tensor, Tensor]:
        """Raw inputs (B, ...), labels (B,) and ids (B,) at positions (B,), each in 0..len-1."""
        ids = self.indices.index_select(0, positions)
        return rows(self.inputs, ids), self.labels.index_select(0, ids), ids

    def subset(self, positions: Tensor) -> Samples:
        """Only the samples at these positions, in their order."""
        return replace(self, indices=self.indices[positions])

    def labelled(self) -> Samples:
        """Only the samples whose label may be used; this very object where that is all of them."""
        return self if self._labelled is None else self._labelled

    @cached_property
    def _labelled(self) -> Samples | None:
        """Those, where others are left out. Looked for once, as a client asks in every round."""
        known = self.labels[self.indices] >= 0  # (M,)
        return None if bool(known.all()) else replace(self, indices=self.indices[known])

    def label_counts(self) -> Tensor:
        """How many samples of each class there are, of those whose label may be used. Shape (classes,)."""
        labels = self.labels[self.indices]  # (M,)
        return torch.bincount(labels[labels >= 0], minlength=self.classes)
