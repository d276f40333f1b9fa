"""How far a student and its teacher disagree: what samples are sought for from which it can learn most."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32


def disagreement(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, where_classes_differ: bool = False) -> Tensor:
    """How far a student is from its teacher on these samples::

        T^2 mean over the batch of   m KL(softmax(teacher / T) || softmax(student / T))

    Unlike a loss of distillation it has a gradient through both: samples are sought for which it is large.

    Args:
        student: (B, C) logits.
        teacher: (B, C) logits.
        temperature: T.
        where_classes_differ: m is 1 only where both name different classes (DENSE); else always (Co-Boosting).

    Returns:
        () float32 or better, at least 0; 0 where both predict alike.

    >>> student, teacher = torch.zeros(2, 2), torch.tensor([[0.0, 3.0], [3.0, 0.0]]).log1p()  # (1/2, 1/2); 1/5, 4/5 and back
    >>> round(disagreement(student, teacher).item(), 4)
    0.1927
    >>> round(disagreement(student, teacher, where_classes_differ=True).item(), 4)  # the student names the first class
    0.0964
    """
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    log_s, log_t = (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    divergences = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1) * temperature**2  # (B,)
    if where_classes_differ:
        divergences = torch.where(student.argmax(1) != teacher.argmax(1), divergences, 0.0)
    return divergences.mean()
