"""Distillation of singular vectors, KD-SVD: Lee et al. 2018, arXiv 1807.06819, as RepDistiller computes it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32
from fedkd.losses.shapes import require_shape
from fedkd.losses.singular_vectors import right_singular_vectors

SPARE = 3
"""The student offers this many more singular vectors than the teacher teaches."""


def kdsvd_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], *, k: int = 1) -> Tensor:
    """How the main directions among channels turn between two layers is taught, whatever the size of the maps.

    A map is an (h * w, c) matrix with right singular vectors v_1, v_2, ... in R^c. For each of the teacher's first k the
    student's nearest by |cos|, of its first k + 3, is taken, with the sign that makes the cosine positive. Both are weighted by
    the teacher's singular value, the k of a map divided by their 2-norm. Then every component of a vector is compared with
    every component of its counterpart in the other layer::

        R[b, i, j, n] = exp(-(v2[b, i, n] - v1[b, j, n])^2 / 8),    loss = 1/B * sum_bijn (R_s - R_t)^2

    The sign of a singular vector is arbitrary, yet R depends on it: here the teacher's largest component is positive, where
    RepDistiller has the sign that LAPACK happens to give. mdistiller takes vectors of the (c * h, w) matrix instead. The
    student's gradient is exact and finite: a rotation within equal singular values, whose derivative is infinite, adds nothing.
    It reaches both of the student's maps and no teacher.

    Args:
        student: two maps (B, c, h, w) and (B, d, h', w'), any float type; computed in float32 or better, outside autocast.
        teacher: two maps with c and d channels of the same samples in the same order; constants here.
        k: how many vectors are taught, from 1 to the smallest of c, d, h * w of the teacher's maps.

    Returns:
        () float32 or better, at least 0. Needs memory for B * c * d * k numbers.

    Raises:
        ValueError: a map is not (B, c, h, w), the batches differ in size, student and teacher in channels, or k is too large.

    >>> import math
    >>> east, north_east = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.tensor([4.0, 3.0]).view(1, 2, 1, 1)
    >>> loss = kdsvd_loss((east, north_east), (east, east))  # v2 - v1: (-0.2, 0.8; -0.4, 0.6) and (0, 1; -1, 0)
    >>> by_hand = [(-0.2, 0), (0.8, 1), (-0.4, -1), (0.6, 0)]
    >>> math.isclose(loss.item(), sum((math.exp(-x * x / 8) - math.exp(-y * y / 8)) ** 2 for x, y in by_hand), rel_tol=1e-5)
    True
    """
    for name, of_student, of_teacher in zip(("first", "second"), student, teacher, strict=True):
        require_shape(f"kdsvd_loss: student's {name} map", of_student, len(student[0]), "c", "h", "w")
        require_shape(f"kdsvd_loss: teacher's {name} map", of_teacher, *of_student.shape[:2], "h", "w")
    most = min(min(maps.shape[1], maps.shape[2:].numel()) for maps in teacher)
    if not 1 <= k <= most:
        raise ValueError(f"kdsvd_loss: k is {k}; the teacher's maps have 1 to {most} singular vectors")
    with torch.autocast(student[0].device.type, enabled=False):
        (s1, t1), (s2, t2) = (_directions(*maps, k) for maps in zip(student, teacher, strict=True))
        return (_relation(s1, s2) - _relation(t1, t2)).square().sum() / len(s1)


def _directions(student: Tensor, teacher: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The teacher's weighted directions and the student's nearest to them: (B, c, h, w) both -> (B, c, k) both."""
    _, values, taught = torch.linalg.svd(_matrix(teacher.detach()), full_matrices=False)  # (B, r), (B, r, c)
    taught = taught[:, :k].mT  # (B, c, k)
    largest = taught.gather(1, taught.abs().argmax(1, keepdim=True))  # (B, 1, k)
    taught = taught * largest.sign()
    offered = right_singular_vectors(_matrix(student), k + SPARE)  # (B, c, n)
    cosines = offered.detach().mT @ taught  # (B, n, k)
    nearest = cosines.abs().argmax(1, keepdim=True)  # (B, 1, k)
    sign = cosines.gather(1, nearest).sign()
    aligned = offered.gather(2, nearest.expand(-1, offered.shape[1], -1)) * sign  # (B, c, k)
    weight = F.normalize(values[:, :k], dim=1)[:, None]  # (B, 1, k)
    return aligned * weight, taught * weight


def _matrix(maps: Tensor) -> Tensor:
    """A row for each place: (B, c, h, w) -> (B, h * w, c)."""
    return at_least_float32(maps).flatten(2).mT


def _relation(first: Tensor, second: Tensor) -> Tensor:
    """Every component against every other, vector by vector: (B, c, k), (B, d, k) -> (B, d, c, k)."""
    return torch.exp(-(second[:, :, None] - first[:, None]).square() / 8)
