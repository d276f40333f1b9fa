"""Weighted soft labels for distillation, WSLD: Zhou et al. 2021, arXiv 2102.00650."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32


def wsld_loss(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Soft cross-entropy, weighed by sample: where the student already beats its teacher on the label, it is taught less::

        -T^2 * mean_b w_b sum_c p_t log p_s,   p = softmax(z / T),   w = 1 - exp(-CE(student, y) / (CE(teacher, y) + 1e-7))

    Both cross-entropies are at temperature 1 and constants: w lies between 0 and 1 and gets no gradient. As a cross-entropy
    and not a KL divergence it is not 0 where both predict alike. The gradient reaches the student only.

    Args:
        student: (B, C) logits, any float type; computed in float32 or better, in log space.
        teacher: (B, C) logits, the same samples in the same order; a constant here.
        labels: (B,) int64 class ids in 0 .. C - 1.
        temperature: T > 0; the authors take 2 on ImageNet and 4 on CIFAR-100.

    Returns:
        () float32 or better, at least 0.

    Raises:
        ValueError: the logits differ in shape.
        IndexError: a label is not a class id.

    >>> coin = torch.zeros(1, 2)  # equally good on the label: w = 1 - 1/e
    >>> round(wsld_loss(coin, coin, torch.tensor([0]), temperature=1.0).item(), 4)  # (1 - 1/e) log 2
    0.4382
    """
    if student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"wsld_loss: the shapes of student and teacher logits differ, {shapes}")
    student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
    ratio = F.cross_entropy(student.detach(), labels, reduction="none") / (
        F.cross_entropy(teacher, labels, reduction="none") + 1e-7
    )  # (B,)
    weights = -torch.expm1(-ratio)  # (B,)
    p_teacher = F.softmax(teacher / temperature, dim=1)  # (B, C)
    soft = -(p_teacher * F.log_softmax(student / temperature, dim=1)).sum(1)  # (B,)
    return (weights * soft).mean() * temperature**2
