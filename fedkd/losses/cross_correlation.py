"""Correlation of what two nets say over a batch, class by class: FCCL, Huang et al., CVPR 2022."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.losses.off_diagonal import off_diagonal
from fedkd.losses.precision import at_least_float32
from fedkd.losses.shapes import require_shape


def fccl_loss(student: Tensor, teacher: Tensor, *, off_diagonal_weight: float = 0.0051) -> Tensor:
    """How far the student's logits of each class are from going with the teacher's of that class, and against all others.

    With every class standardised over the batch (its mean taken off, divided by the deviation whose square is unbiased)::

        M = z_s^T z_t / B    (C, C)
        loss = sum_u (M_uu - 1)^2 + off_diagonal_weight * sum over u != v of (M_uv + 1)^2

    Off the diagonal the aim is -1, and not 0 as in Barlow Twins. Scaling the logits of a class by a positive number, or adding
    one, changes nothing. The loss is never 0: M_uu is at most (B - 1) / B, and more than two classes cannot all oppose each
    other. A class whose logits are all the same goes with nothing: its row of M is 0, where the authors' code gives NaN.

    Args:
        student: (B, C) logits of B >= 2 samples, any float type; computed in float32 or better, outside autocast.
        teacher: (B, C) logits, the same samples in the same order; a constant here.
        off_diagonal_weight: >= 0.

    Returns:
        () float32 or better, above 0.

    Raises:
        ValueError: the logits differ in shape, or there is one sample, which has no deviation.

    >>> logits = torch.tensor([[0.0, 5.0], [2.0, 1.0]])  # class 0 goes up, class 1 down
    >>> round(fccl_loss(logits, 3 * logits + 7).item(), 5)  # M_uv = 1/2 and -1/2, as B is 2: 2/4 + 0.0051 * 2/4
    0.50255
    """
    require_shape("fccl_loss: student", student, "B", "C")
    require_shape("fccl_loss: teacher", teacher, *student.shape)
    if len(student) < 2:
        raise ValueError("fccl_loss: a batch of one sample has no correlations: give 2 or more")
    with torch.autocast(student.device.type, enabled=False):
        own, others = _standardised(student), _standardised(teacher.detach())
        correlations = own.T @ others / len(own)  # (C, C)
        along = (correlations.diagonal() - 1).square().sum()
        return along + off_diagonal_weight * (off_diagonal(correlations) + 1).square().sum()


def _standardised(logits: Tensor) -> Tensor:
    """Each column brought to mean 0 and unbiased variance 1; one without variance becomes zeros. (B, C)"""
    rows = at_least_float32(logits)
    variance, mean = torch.var_mean(rows, dim=0)  # (C,) each
    return (rows - mean) * torch.where(variance > 0, variance, 1.0).rsqrt()
