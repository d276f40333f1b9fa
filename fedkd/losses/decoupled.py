"""Decoupled knowledge distillation, DKD: Zhao et al. 2022, arXiv 2203.08679."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.not_true import not_true_loss, without_true
from fedkd.losses.precision import at_least_float32


def dkd_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> Tensor:
    """The two halves of the distillation loss, weighed apart::

        T^2 * mean_b [ alpha * KL(b_t || b_s) + beta * KL(n_t || n_s) ]

        p = softmax(z / T),   b = (p_y, 1 - p_y),   n = softmax(z without y / T)

    b says how sure the net is of the label, n how it ranks the wrong classes. Plain distillation is alpha = 1 and, sample by
    sample, beta = 1 - p_t[y]: a sure teacher hardly teaches its ranking, which a fixed beta mends. The official code raises the
    loss over the first 20 epochs, as the caller may. The label is taken out, not masked by a large number, and 1 - p_y is
    summed in log space, so that nothing underflows. The gradient reaches the student only.

    Args:
        student: (B, C) logits of C >= 2 classes, any float type; computed in float32 or better, in log space.
        teacher: (B, C) logits, the same samples in the same order; a constant here.
        labels: (B,) int64 class ids in 0 .. C - 1.
        alpha: weight of the first half, >= 0.
        beta: weight of the second half, >= 0; the authors take 2 to 8 depending on the pair of nets.
        temperature: T > 0.

    Returns:
        () float32 or better, at least 0; 0 where both predict alike.

    Raises:
        ValueError: the logits differ in shape or have a single class.
        RuntimeError: a label is not a class id.

    >>> student, teacher = torch.zeros(1, 3), torch.tensor([[4.0, 0.0, 3.0]]).log1p()  # 1/3 each and (1/2, 1/10, 4/10)
    >>> label = torch.tensor([0])
    >>> round(dkd_loss(student, teacher, label, beta=0, temperature=1.0).item(), 4)  # 1/2 log(3/2) + 1/2 log(3/4)
    0.0589
    >>> round(dkd_loss(student, teacher, label, alpha=0, beta=1, temperature=1.0).item(), 4)  # (1/2, 1/2) taught (1/5, 4/5)
    0.1927
    """
    if student.shape != teacher.shape or student.shape[1] < 2:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"dkd_loss: the shapes of student and teacher logits differ or have one class, {shapes}")
    log_student = _target_or_not(student, labels, temperature)  # (B, 2)
    log_teacher = _target_or_not(teacher.detach(), labels, temperature)  # (B, 2)
    target = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return alpha * target * temperature**2 + beta * not_true_loss(student, teacher, labels, temperature=temperature)


def _target_or_not(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """log (p_y, 1 - p_y): (B, C) -> (B, 2)."""
    log_p = F.log_softmax(at_least_float32(logits) / temperature, dim=1)  # (B, C)
    log_others = without_true(log_p, labels).logsumexp(1)  # (B,)
    return torch.stack([log_p.gather(1, labels[:, None])[:, 0], log_others], dim=1)
