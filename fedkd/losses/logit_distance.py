"""Distances between raw logits: what FedMD's digest phase descends. Li and Wang 2019, arXiv 1910.03581."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32


def logit_mae(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference over all B * C elements, as in the authors' code of FedMD.

    Unlike a divergence of softmaxes it sees the logits' scale and offset. The gradient reaches the student only.

    Args:
        student: (B, C) logits, any float type; computed in float32 or better.
        teacher: (B, C) logits, the same samples in the same order; a constant here.

    Returns:
        () float32 or better, at least 0.

    Raises:
        ValueError: the logits differ in shape.

    >>> import torch
    >>> logit_mae(torch.tensor([[0.0, 4.0]]), torch.tensor([[2.0, 3.0]])).item()
    1.5
    """
    return F.l1_loss(*_pair("logit_mae", student, teacher))


def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference over all B * C elements; result, errors and gradient as in ``logit_mae``.

    The regression on logits of Ba and Caruana 2014, arXiv 1312.6184. TextBrewer divides both logits by a temperature first.

    Args:
        student: (B, C) logits, any float type; computed in float32 or better.
        teacher: (B, C) logits, the same samples in the same order; a constant here.

    >>> import torch
    >>> logit_mse(torch.tensor([[0.0, 4.0]]), torch.tensor([[2.0, 3.0]])).item()
    2.5
    """
    return F.mse_loss(*_pair("logit_mse", student, teacher))


def _pair(name: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 or better, the teacher detached; torch would broadcast unequal shapes to a wrong mean."""
    if student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"{name}: the shapes of student and teacher logits differ, {shapes}")
    return at_least_float32(student), at_least_float32(teacher.detach())
