"""Cross-entropy with labels as local training has it: smoothed, and weighted by class, where the settings say so."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    """Mean over the batch of ``-log softmax(logits)[label]``; gradient through ``logits``.

    Args:
        logits: (B, C), any float type; computed in float32 or better.
        labels: (B,) int64 class ids.
        weights: (C,), what a sample of each class counts; the mean is weighted by them. None: all alike.
        smoothing: share of each label that is spread evenly over all classes.

    Returns:
        () float32 or better.

    >>> one_of_two = torch.tensor([[0.0, 0.0], [0.0, 20.0]]), torch.tensor([0, 1])
    >>> round(cross_entropy(*one_of_two, None, 0.0).item(), 4)  # half of log 2
    0.3466
    >>> round(cross_entropy(*one_of_two, torch.tensor([3.0, 1.0]), 0.0).item(), 4)  # three quarters of it
    0.5199
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    by_class = None if weights is None else weights.to(wide.dtype)
    return F.cross_entropy(wide, labels, weight=by_class, label_smoothing=smoothing)


def labelled_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    """The same, summed over the labelled samples and divided by the size of the whole batch; -1 is no label."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    by_class = None if weights is None else weights.to(wide.dtype)
    how = {"ignore_index": -1, "reduction": "sum"}
    return F.cross_entropy(wide, labels, weight=by_class, label_smoothing=smoothing, **how) / len(labels)  # type: ignore[arg-type]


def balanced_weights(counts: Tensor) -> Tensor:
    """Weights (C,) by which every class that occurs counts as much as another, of counts (C,); 1 for what does not occur.

    The mean weight of a sample is 1, as in scikit-learn's "balanced".

    >>> balanced_weights(torch.tensor([30, 10, 0]))
    tensor([0.6667, 2.0000, 1.0000])
    """
    there = counts > 0
    even = counts.sum() / there.sum().clamp_min(1)
    return torch.where(there, even / counts.clamp_min(1), 1.0)
