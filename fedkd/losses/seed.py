"""Distillation of a self-supervised teacher over a queue: SEED, Fang et al. 2021, arXiv 2101.04731."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32
from fedkd.losses.rows import unit_rows
from fedkd.losses.shapes import require_shape


def seed_loss(
    student: Tensor, teacher: Tensor, queue: Tensor, *, temperature: float = 0.2, teacher_temperature: float = 1e-4
) -> Tensor:
    """Cross-entropy between how teacher and student relate a sample to the teacher's embedding of it and to a queue.

    With rows of length 1 and the candidates of sample b its own teacher row followed by the queue, c = [t_b, q_1 .. q_Q]::

        loss = mean_b -sum_j softmax_j(t_b . c_j / teacher_temperature) log softmax_j(s_b . c_j / temperature)

    The defaults are the authors' code's. Its teacher_temperature of 1e-4 all but makes the target one-hot: float32 resolves a
    cosine to 6e-8, so the target's logits to 6e-4. The queue is the caller's: older embeddings of the teacher, first in, first
    out, to which this batch is added after the loss. Memory B * (Q + 1) floats a side. The gradient reaches the student only.

    Args:
        student: (B, D) embeddings, any float type and length; computed in float32 or better, outside autocast.
        teacher: (B, D) of the same samples, in the same order; a constant here.
        queue: (Q, D) the teacher's of other samples, Q >= 0; a constant here.
        temperature: > 0, divides the student's cosines.
        teacher_temperature: > 0, divides the teacher's cosines.

    Returns:
        () float32 or better, at least the entropy of the target; 0 for an empty queue.

    Raises:
        ValueError: the embeddings are not of one width, or student and teacher of another batch.

    >>> student, teacher, queue = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    >>> round(seed_loss(student, teacher, queue, temperature=1.0).item(), 4)  # target (1, 0); student's cosines (0, 1)
    1.3133
    """
    require_shape("seed_loss: student", student, "B", "D")
    require_shape("seed_loss: teacher", teacher, *student.shape)
    require_shape("seed_loss: queue", queue, "Q", student.shape[1])
    with torch.autocast(student.device.type, enabled=False):
        own = unit_rows(at_least_float32(teacher.detach()))  # (B, D)
        others = unit_rows(at_least_float32(queue.detach()))  # (Q, D)
        target = F.softmax(_cosines(own, own, others) / teacher_temperature, dim=1)  # (B, 1 + Q)
        rows = unit_rows(at_least_float32(student))  # (B, D)
        log_student = F.log_softmax(_cosines(rows, own, others) / temperature, dim=1)  # (B, 1 + Q)
        return -(target * log_student).sum(1).mean()


def _cosines(rows: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """Each row with its own candidate, then with the shared ones: (B, D), (B, D), (Q, D) -> (B, 1 + Q)."""
    return torch.cat([(rows * own).sum(1, keepdim=True), rows @ others.T], dim=1)
