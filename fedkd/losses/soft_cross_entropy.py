"""Cross-entropy against probabilities: what DS-FL, Selective-FD and others descend on public samples."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32


def soft_cross_entropy(student_logits: Tensor, target_probabilities: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of the student's prediction with given probabilities::

        -T^2 * mean_b sum_c q_c log softmax(student / T)_c

    It differs from the KL divergence by T^2 times the entropy of q, a constant: the gradient, T (softmax(student / T) - q) / B,
    is the same and the minimum is not 0. At T = 1 it is, for instance, the loss of Itahara et al. 2021, arXiv 2008.06180; where
    q was made at a higher temperature, as a mean of softened teachers, the student is compared at the same. The gradient
    reaches the student only. The mean is over all B rows: a row of q that is all zeros (nobody answered) adds nothing but
    counts, so leave such samples out of the batch.

    Args:
        student_logits: (B, C) logits, any float type; computed in float32 or better, in log space.
        target_probabilities: (B, C) q, rows that sum to 1; a constant here and never softened here.
        temperature: T > 0, divides the student's logits only.

    Returns:
        () float32 or better, at least T^2 times the mean entropy of q.

    Raises:
        ValueError: the arguments differ in shape.

    >>> import torch
    >>> student = torch.tensor([[0.0, 2.0]]).log1p()  # (1/4, 3/4)
    >>> round(soft_cross_entropy(student, torch.tensor([[0.5, 0.5]])).item(), 4)  # (log 4 + log 4/3) / 2
    0.837
    """
    if student_logits.shape != target_probabilities.shape:
        shapes = f"{tuple(student_logits.shape)} and {tuple(target_probabilities.shape)}"
        raise ValueError(f"soft_cross_entropy: the shapes of logits and probabilities differ, {shapes}")
    log_student = F.log_softmax(at_least_float32(student_logits) / temperature, dim=1)  # (B, C)
    return -(at_least_float32(target_probabilities.detach()) * log_student).sum(1).mean() * temperature**2
