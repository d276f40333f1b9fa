"""DIST, distillation from a stronger teacher by correlation: Huang et al. 2022, arXiv 2205.10536."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32


def dist_loss(student: Tensor, teacher: Tensor, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0) -> Tensor:
    """How far student and teacher are from being correlated, within samples and within classes::

        T^2 * [ beta * (1 - mean_b rho(p_s[b, :], p_t[b, :])) + gamma * (1 - mean_c rho(p_s[:, c], p_t[:, c])) ]

        p = softmax(z / T),   rho(u, v) = u'v' / (|u'| |v'| + 1e-8),   u' = u - mean(u)

    Correlation does not see scale and offset, so a weak student need not match how sure a strong teacher is. T^2 is in the
    authors' code and not in the paper. The second half compares each class over the batch: it wants large batches, and in a
    batch of one it is the constant gamma T^2. A prediction that is the same for all classes has no correlation: rho is 0 there
    and its slope, bounded by 1e-8 only, is steep. The gradient reaches the student only.

    Args:
        student: (B, C) logits, any float type; computed in float32 or better.
        teacher: (B, C) logits, the same samples in the same order; a constant here.
        beta: weight of the half within samples (inter-class relations), >= 0.
        gamma: weight of the half within classes (intra-class relations), >= 0.
        temperature: T > 0; the authors take 4 on CIFAR-100 and 1 on ImageNet.

    Returns:
        () float32 or better, between 0 and 2 T^2 (beta + gamma); 0 up to the 1e-8 where both predict alike.

    Raises:
        ValueError: the logits differ in shape.

    >>> student, teacher = torch.zeros(2, 2), torch.tensor([[0.0, 3.0], [3.0, 0.0]]).log1p()
    >>> dist_loss(student, teacher, temperature=1.0).item()  # a constant prediction: both correlations are 0
    2.0
    >>> round(dist_loss(2 * teacher, teacher, temperature=1.0).item(), 4)  # further apart in the same order: both are 1
    0.0
    """
    if student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"dist_loss: the shapes of student and teacher logits differ, {shapes}")
    p_student = F.softmax(at_least_float32(student) / temperature, dim=1)  # (B, C)
    p_teacher = F.softmax(at_least_float32(teacher.detach()) / temperature, dim=1)  # (B, C)
    within_samples = 1 - _pearson(p_student, p_teacher, dim=1).mean()
    within_classes = 1 - _pearson(p_student, p_teacher, dim=0).mean()
    return (beta * within_samples + gamma * within_classes) * temperature**2


def _pearson(a: Tensor, b: Tensor, *, dim: int) -> Tensor:
    """Pearson's correlation along an axis, 0 where either is constant."""
    a, b = (x - x.mean(dim, keepdim=True) for x in (a, b))
    lengths: Tensor = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    return (a * b).sum(dim) / (lengths + 1e-8)
