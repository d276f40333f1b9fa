"""Means by class, gathered batch by batch: a client's mean outputs or features, without a second pass."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor


@final
class ClassMeans:
    """The mean of all rows added so far, for each class of their labels. Nothing of it carries a graph.

    Summed in float64, so that neither the order of batches nor an autocast region shows in the digits that are kept.

    >>> means = ClassMeans(classes=3, width=1)
    >>> means.add(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]))
    >>> means.values().tolist(), means.counts().tolist()
    ([[2.0], [0.0], [5.0]], [2, 0, 1])
    """

    def __init__(self, *, classes: int, width: int, device: torch.device | None = None) -> None:
        self._sums = torch.zeros(classes, width, dtype=torch.float64, device=device)  # (C, D)
        self._counts = torch.zeros(classes, dtype=torch.float64, device=device)  # (C,)
        self._rows = 0

    def __len__(self) -> int:
        """How many rows were added."""
        return self._rows

    def clear(self) -> None:
        """Forget all rows."""
        self._sums.zero_()
        self._counts.zero_()
        self._rows = 0

    def add(self, rows: Tensor, labels: Tensor) -> None:
        """Count these rows (B, D), any float type, under their labels (B,), int64 class ids in 0 .. C - 1."""
        members = (labels[:, None] == torch.arange(len(self._counts), device=labels.device)).double()  # (B, C)
        self._sums += members.T @ rows.detach().double()
        self._counts += members.sum(0)
        self._rows += len(labels)

    def values(self) -> Tensor:
        """(C, D) float32 on the CPU; zeros for a class without a row."""
        return (self._sums / self._counts.clamp_min(1)[:, None]).float().cpu()

    def counts(self) -> Tensor:
        """How many rows each mean is of. (C,) int32 on the CPU."""
        return self._counts.int().cpu()
