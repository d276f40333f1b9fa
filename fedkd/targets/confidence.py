"""Confidence-aware weights: teachers that are right weigh more. Zhang et al. 2022, arXiv 2201.00007, CA-MKD."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.targets.means import weighted
from fedkd.targets.target import Target
from fedkd.targets.teachers import label_losses


def confidence_weights(logits: Tensor, labels: Tensor) -> Tensor:
    """For every sample, weights that fall with the teachers' cross-entropies::

        c_k = -log softmax(z_k)[y]                           at temperature 1
        w_k = (1 - exp(c_k) / sum_j exp(c_j)) / (K - 1)      sums to one; 1 for K = 1

    Only the worst teachers lose: those of equal loss weigh alike, and no weight exceeds 1 / (K - 1). The official loss
    divides by K once more, which these weights do not. Labels leak into the target: a student whose loss has a cross-entropy
    knows them anyway, one that learns from unlabelled samples cannot have this target.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type; constants.
        labels: (B,) integers below C.

    Returns:
        (K, B) numbers >= 0 that sum to one over teachers, float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher; labels that are not one class a sample.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[0.0, 3.0]]]).log1p()  # p[y] 1/2 and 4/5, so exp(c) 2 and 5/4
    >>> confidence_weights(logits, torch.tensor([1])).squeeze(1)  # 1 - 8/13 and 1 - 5/13
    tensor([0.3846, 0.6154])
    """
    losses = label_losses("confidence_weights", logits, labels)  # (K, B)
    teachers = len(losses)
    return (1 - losses.softmax(0)) / (teachers - 1) if teachers > 1 else torch.ones_like(losses)


def confidence(logits: Tensor, labels: Tensor, *, temperature: float = 1.0) -> Target:
    """The mixture of the teachers' probabilities at T in the shares of ``confidence_weights``::

        p = sum_k w_k softmax(z_k / T)

    Labels leak into the target, through the weights.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type; constants.
        labels: (B,) integers below C.
        temperature: T > 0 of the mixture; the weights are at temperature 1.

    Returns:
        probabilities (B, C) at that temperature, float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher; labels that are not one class a sample; a
            temperature that is not positive.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[0.0, 3.0]]]).log1p()  # (1/2, 1/2) and (1/5, 4/5), weights 5/13 and 8/13
    >>> confidence(logits, torch.tensor([1])).probabilities()
    tensor([[0.3154, 0.6846]])
    """
    return weighted(logits, confidence_weights(logits, labels), temperature=temperature)
