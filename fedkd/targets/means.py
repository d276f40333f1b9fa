"""The ensemble's mean: of its logits or of its probabilities, and the weighted mixture."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.targets.target import Target
from fedkd.targets.teachers import constant, teacher_logits, teacher_probabilities


def mean_logits(logits: Tensor) -> Target:
    """The mean of the teachers' logits: the normalised geometric mean of their probabilities::

        z = (1/K) sum_k z_k

    What KDCL, ONE, OKDDip, FFL and TextBrewer call the ensemble. A teacher with large logits outvotes the others: put
    heterogeneous teachers on one scale first. Uses no labels.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type; constants.

    Returns:
        logits (B, C), float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher.

    >>> mean_logits(torch.tensor([[[1.0, 0.0]], [[3.0, 2.0]]])).logits()
    tensor([[2., 1.]])
    """
    return Target(teacher_logits("mean_logits", logits).mean(0), "logits")


def mean_probs(logits: Tensor, *, temperature: float = 1.0) -> Target:
    """The mean of the teachers' probabilities: their mixture::

        p = (1/K) sum_k softmax(z_k / T)

    The KL divergence to it has the same gradient as the mean of the K divergences to the teachers: this is "AVER", You et al.
    2017 and FedMD. Teachers that are sure of different classes give a flat target. Uses no labels.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type; constants.
        temperature: T > 0.

    Returns:
        probabilities (B, C) at that temperature, float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher; a temperature that is not positive.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[0.0, 3.0]]]).log1p()  # (1/2, 1/2) and (1/5, 4/5)
    >>> mean_probs(logits).probabilities()
    tensor([[0.3500, 0.6500]])
    """
    return Target(teacher_probabilities("mean_probs", logits, temperature).mean(0), "probabilities")


def weighted(logits: Tensor, weights: Tensor, *, temperature: float = 1.0) -> Target:
    """The mixture of the teachers' probabilities in given shares::

        p = sum_k v_k softmax(z_k / T),   v_k = w_k / sum_j w_j

    Only the weights' ratios count. Where all are zero, the teachers share equally. Uses no labels.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type; constants.
        weights: (K,), or (K, B) where they differ between samples; finite numbers >= 0, constants.
        temperature: T > 0.

    Returns:
        probabilities (B, C) at that temperature, float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher; weights of another shape, negative or not finite;
            a temperature that is not positive.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[0.0, 3.0]]]).log1p()  # (1/2, 1/2) and (1/5, 4/5)
    >>> weighted(logits, torch.tensor([1.0, 2.0])).probabilities()  # 1/6 + 2/15 and 1/6 + 8/15
    tensor([[0.3000, 0.7000]])
    """
    probabilities = teacher_probabilities("weighted", logits, temperature)  # (K, B, C)
    teachers, samples = probabilities.shape[:2]
    if weights.shape not in {(teachers,), (teachers, samples)}:
        raise ValueError(f"weighted: weights are ({teachers},) or ({teachers}, {samples}), not {tuple(weights.shape)}")
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(f"weighted: weights are finite and not negative, not {weights.min():g} to {weights.max():g}")
    shares = _shares(weights).to(probabilities).view(teachers, -1, 1)  # (K, 1 or B, 1)
    return Target((shares * probabilities).sum(0), "probabilities")


def _shares(weights: Tensor) -> Tensor:
    """Weights over their sum over teachers, in float64, where a sum of float32 does not overflow; equal where all are zero."""
    doubles = constant(weights).double()
    total = doubles.sum(0)
    return torch.where(total > 0, doubles / total, 1 / len(weights))
