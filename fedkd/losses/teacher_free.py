"""Teacher-free distillation, Tf-KD, from a teacher made by hand: Yuan et al. 2020, arXiv 1909.11723."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32


def tfkd_reg_loss(student: Tensor, labels: Tensor, *, correct: float = 0.99, temperature: float = 20.0) -> Tensor:
    """KL divergence from the student's prediction to a made-up teacher that knows the label and nothing else::

        mean_bc t_c log(t_c / softmax(student)_c),   t = softmax(u / T),   u_y = correct,  u_c = (1 - correct) / (C - 1)

    As in the authors' code, which calls it the regularisation: the softmax is taken of probabilities over T, so t is nearly
    uniform at T = 20; the student is not softened; the mean is over all B * C elements, C times smaller than over the batch;
    neither T^2 nor the authors' multiplier (100) is in it. KD_Lib computes the same, at correct = 0.9 and temperature = 10.

    Args:
        student: (B, C) logits, any float type; computed in float32 or better, in log space.
        labels: (B,) int64 class ids in 0 .. C - 1.
        correct: the label's share of u, between 0 and 1.
        temperature: T > 0, divides u; the authors take 20 to 40.

    Returns:
        () float32 or better, at least 0; 0 where the student predicts t.

    Raises:
        RuntimeError: a label is not a class id.

    >>> student, label = torch.tensor([[0.0, 1.0]]), torch.tensor([1])
    >>> round(tfkd_reg_loss(student, label, correct=1.0, temperature=1.0).item(), 6)  # t is softmax((0, 1)), the student's own
    0.0
    >>> round(tfkd_reg_loss(torch.zeros(1, 2), label, correct=1.0, temperature=1.0).item(), 4)  # (log 2 - 0.5822) / 2
    0.0555
    """
    log_student = F.log_softmax(at_least_float32(student), dim=1)  # (B, C)
    wrong = (1 - correct) / max(student.shape[1] - 1, 1)
    made = torch.full_like(log_student, wrong).scatter(1, labels[:, None], correct)  # (B, C), u
    log_target = F.log_softmax(made / temperature, dim=1)  # (B, C)
    return F.kl_div(log_student, log_target, reduction="batchmean", log_target=True) / student.shape[1]
