"""Distillation of similarities to anchor points: CompRess, Abbasi Koohpayegani et al. 2020, arXiv 2010.14713."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32
from fedkd.losses.rows import unit_rows
from fedkd.losses.shapes import require_shape


def compress_loss(
    student: Tensor, teacher: Tensor, queue: Tensor, *, student_queue: Tensor | None = None, temperature: float = 0.04
) -> Tensor:
    """KL(teacher || student) between how the two relate a sample to the same anchors.

    With rows of length 1, q_j the teacher's embedding of anchor j and o_j the student's of it::

        p_b = softmax_j(t_b . q_j / temperature)
        r_b = softmax_j(s_b . o_j / temperature)
        loss = mean_b sum_j p_bj log(p_bj / r_bj)

    With ``student_queue`` these are the paper's two queues ("2q"), and the embeddings may differ in width. Without it both
    look at the teacher's anchors, o = q ("1q"). The latter with a prediction head's output as student, another view of the
    sample for the teacher and temperature 0.02 is the loss of ISD, Tejankar et al. 2021, arXiv 2012.09259. The queues are the
    caller's, and do not hold the batch itself. Memory B * Q floats a side. The gradient reaches the student only.

    Args:
        student: (B, D) embeddings, any float type and length; computed in float32 or better, outside autocast.
        teacher: (B, T) of the same samples, in the same order; a constant here.
        queue: (Q, T) the teacher's embeddings of the anchors, Q >= 0; a constant here.
        student_queue: (Q, D) the student's of the same anchors, in the same order; a constant here. Default: ``queue``.
        temperature: > 0, divides all cosines.

    Returns:
        () float32 or better, at least 0; 0 for an empty queue, and for a student whose cosines are the teacher's.

    Raises:
        ValueError: shapes do not fit: another batch, another number of anchors, or another width where one is shared.

    >>> student, teacher, queue = torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, 0.0]]), torch.eye(2)
    >>> # the teacher's cosines are (1, 0), so its relations (3/4, 1/4); the student's are (1/2, 1/2)
    >>> loss = compress_loss(student, teacher, queue, temperature=1 / torch.tensor(3.0).log().item())
    >>> round(loss.item(), 4)  # 3/4 log(3/2) - 1/4 log 2
    0.1308
    """
    require_shape("compress_loss: student", student, "B", "D")
    require_shape("compress_loss: teacher", teacher, len(student), "T")
    require_shape("compress_loss: queue", queue, "Q", teacher.shape[1])
    anchors = queue if student_queue is None else student_queue
    require_shape(
        f"compress_loss: {'queue' if student_queue is None else 'student_queue'}", anchors, len(queue), student.shape[1]
    )
    with torch.autocast(student.device.type, enabled=False):
        log_target = _log_relations(teacher.detach(), queue.detach(), temperature)  # (B, Q)
        log_student = _log_relations(student, anchors.detach(), temperature)  # (B, Q)
        return (log_target.exp() * (log_target - log_student)).sum(1).mean()


def _log_relations(rows: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """The log of how much each row (B, D) is like each anchor (Q, D), by cosine. (B, Q)"""
    cosines = unit_rows(at_least_float32(rows)) @ unit_rows(at_least_float32(anchors)).T
    return F.log_softmax(cosines / temperature, dim=1)
