"""Probabilistic knowledge transfer, PKT: Passalis and Tefas 2018, arXiv 1803.10837."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.losses.rows import flat_rows


def pkt_loss(student: Tensor, teacher: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Divergence between the probabilities that one sample picks another, made of cosines::

        1/B^2 * sum_ij p_t log((p_t + eps) / (p_s + eps)),   p_ij = s_ij / sum_j s_ij,   s_ij = (1 + u_i . u_j) / 2

    u = e / (|e| + eps). The mean is over all B^2 pairs, as in the authors' code: B times smaller than a KL divergence averaged
    over the batch. p is B x B whatever the width, so student and teacher may have different widths. The gradient reaches the
    student only; a zero row has no direction and gets none. A common rotation, a scale of any row and a common permutation of
    the batch change nothing but what eps does.

    Args:
        student: (B, D) embeddings, or (B, c, h, w) maps that are flattened, any float type; computed in float32 or better,
            outside autocast.
        teacher: (B, D'), the same samples in the same order; a constant here.
        eps: > 0; added to lengths and to probabilities. AberHu's Knowledge-Distillation-Zoo takes 1e-6.

    Returns:
        () float32 or better, at least 0 up to eps; 0 for student = teacher and for B = 1.

    Raises:
        ValueError: the batches differ in size, or an argument has less than two axes.

    >>> student, teacher = torch.tensor([[1.0], [1.0]]), torch.eye(2)  # p: 1/2 each, and 2/3 on the diagonal
    >>> round(pkt_loss(student, teacher).item(), 4)  # (2/3 log(4/3) + 1/3 log(2/3)) / 2
    0.0283
    """
    with torch.autocast(student.device.type, enabled=False):
        p_student, p_teacher = (_pick(rows, eps) for rows in flat_rows("pkt_loss", student, teacher.detach()))
        return (p_teacher * ((p_teacher + eps).log() - (p_student + eps).log())).mean()


def _pick(rows: Tensor, eps: float) -> Tensor:
    """Rows of probabilities over the batch: (B, D) -> (B, B)."""
    length: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)  # (B, 1)
    directions = torch.where(length > 0, rows, 0.0) / (length + eps)
    similarity = ((directions @ directions.T + 1) / 2).clamp(min=0)  # rounding may take a cosine below -1
    return similarity / similarity.sum(1, keepdim=True)
