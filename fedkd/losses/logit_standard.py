"""Logit standardisation before distillation: Sun et al. 2024, arXiv 2403.01427."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedkd.losses.precision import at_least_float32


def logit_standardize(logits: Tensor) -> Tensor:
    """Every sample's logits with mean 0 and standard deviation 1, to be given to a loss on logits::

        (z - mean_c z) / (std_c z + 1e-7),   std with C - 1 in the denominator

    No scalar but logits: ``kd_loss(logit_standardize(student), logit_standardize(teacher), temperature=2.0)`` is the method,
    with T^2 kept. The student then need not match the teacher's range of logits, only their shape. Differentiable; equal
    logits become zeros, with a steep slope there.

    Args:
        logits: (B, C) of student or teacher, any float type; computed in float32 or better.

    Returns:
        (B, C) float32 or better.

    >>> logit_standardize(torch.tensor([[1.0, 3.0, 5.0]])).tolist()  # mean 3, deviation 2
    [[-1.0, 0.0, 1.0]]
    """
    centred = at_least_float32(logits)
    centred = centred - centred.mean(1, keepdim=True)  # (B, C)
    # The norm, not torch.std: finite for one class, and for equal logits its gradient is 0.
    length: Tensor = torch.linalg.vector_norm(centred, dim=1, keepdim=True)  # (B, 1)
    return centred / (length / math.sqrt(max(logits.shape[1] - 1, 1)) + 1e-7)
