"""Distillation from teachers that know some classes each: CE-BP of UHC, Vongkulbhisal et al. 2019, arXiv 1904.06062."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32


def unify_loss(student: Tensor, teacher: Tensor, known: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL divergence from the student's prediction to each teacher's, over the classes that the teacher knows::

        T^2 * mean_b sum_k sum_{c in L_k} p_k[c] log(p_k[c] / q_k[c])

        p_k = softmax(teacher_k / T),  q_k = softmax(student / T),  each over the classes L_k alone

    A teacher is silent on how likely its classes are beside others, and so is its term: whatever the student holds of other
    classes, their gradient is 0. Classes that two teachers share are what makes the rest comparable. The student itself takes
    the place of ``fedkd.targets.unify``, without a problem to solve for every sample: their minimum is the same, where the
    student can reach it. Teachers are summed as in the paper, which minimises the cross-entropy: larger than this by a
    constant, and with T = 1. The gradient reaches the student only.

    Args:
        student: (B, C) logits, any float type; computed in float32 or better, in log space.
        teacher: (B, C), or (K, B, C) of K teachers; what one says of classes that it does not know is never read.
        known: (C,) bool, or (K, C): which classes a teacher knows, one at least.
        temperature: T > 0.

    Returns:
        () float32 or better, at least 0; 0 where the student agrees with every teacher on its classes.

    Raises:
        ValueError: the shapes do not fit, or a teacher knows no class.

    >>> student, teacher = torch.zeros(1, 3), torch.tensor([[0.0, 3.0, 9.0]]).log1p()  # over two classes (1/5, 4/5)
    >>> round(unify_loss(student, teacher, torch.tensor([True, True, False])).item(), 4)  # 1/5 log(2/5) + 4/5 log(8/5)
    0.1927
    """
    if teacher.shape[-2:] != student.shape or known.shape != (*teacher.shape[:-2], student.shape[-1]) or teacher.dim() > 3:
        shapes = f"{tuple(student.shape)}, {tuple(teacher.shape)} and {tuple(known.shape)}"
        raise ValueError(f"unify_loss: the shapes of student, teacher and known classes do not fit, {shapes}")
    if not bool(known.any(-1).all()):
        raise ValueError("unify_loss: a teacher knows no class")
    unknown = ~known[..., None, :]  # (1, C) or (K, 1, C)
    log_q = F.log_softmax((at_least_float32(student) / temperature).masked_fill(unknown, -torch.inf), dim=-1)
    log_p = F.log_softmax((at_least_float32(teacher.detach()) / temperature).masked_fill(unknown, -torch.inf), dim=-1)
    log_ratios = log_p.masked_fill(unknown, 0.0) - log_q.masked_fill(unknown, 0.0)  # (B, C) or (K, B, C)
    return temperature**2 * (log_p.exp() * log_ratios).sum() / len(student)
