"""Cross-entropy against class labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32


def cross_entropy_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch of ``-log softmax(logits)[label]``; gradient through ``logits``.

    Args:
        logits: (B, C), any float type; computed in float32 or better.
        labels: (B,) int64 class ids in 0 .. C - 1.

    Returns:
        () float32 or better.

    Raises:
        IndexError: a label is not a class id.

    >>> import torch
    >>> round(cross_entropy_loss(torch.zeros(2, 10), torch.tensor([3, 7])).item(), 4)  # log 10
    2.3026
    """
    return F.cross_entropy(at_least_float32(logits), labels)


def labelled_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over the labelled samples and divided by the size of the whole batch; gradient through ``logits``.

    Args:
        logits: (B, C), any float type; computed in float32 or better.
        labels: (B,) int64 class ids in 0 .. C - 1, or -1 where a label may not be used.

    Returns:
        () float32 or better; 0 where no sample is labelled.

    Raises:
        IndexError: a label is neither -1 nor a class id.

    >>> import torch
    >>> round(labelled_cross_entropy(torch.zeros(4, 10), torch.tensor([3, -1, -1, -1])).item(), 4)  # log(10) / 4
    0.5756
    """
    return F.cross_entropy(at_least_float32(logits), labels, ignore_index=-1, reduction="sum") / len(labels)
