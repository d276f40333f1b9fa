"""Relational knowledge distillation, RKD: distances and angles in the batch. Park et al. 2019, arXiv 1904.05068."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fedkd.base.errors import unknown
from fedkd.losses.rows import flat_rows, unit_rows


def rkd_distance_loss(student: Tensor, teacher: Tensor, *, preset: str = "repdistiller") -> Tensor:
    """How differently student and teacher space the samples of the batch::

        mean_ij huber(d_s[i, j] - d_t[i, j]),   d = |e_i - e_j| / mean over i != j of |e_i - e_j|

    huber(x) = x^2 / 2 for |x| < 1, |x| - 1/2 beyond. The mean is over all B^2 pairs, the diagonal's zeros too; each side is
    divided by its own mean, through which the gradient flows. It reaches the student only. Distances are taken from
    differences, not from dot products, which would cancel in float32. The presets are what libraries compute::

        repdistiller    two samples are at least 1e-6 apart; also mdistiller, torchdistill and the authors
        kd_lib          at least 1e-5, and 1e-7 is added to the mean distance
        mmrazor         as repdistiller, of embeddings divided by their length

    A rotation, a shift and a scale of the embeddings and a common permutation of the batch change nothing (mmrazor: no shift).

    Args:
        student: (B, D) embeddings, or (B, c, h, w) maps that are flattened, any float type; computed in float32 or better,
            outside autocast.
        teacher: (B, D'), the same samples in the same order; a constant here.
        preset: "repdistiller", "kd_lib" or "mmrazor".

    Returns:
        () float32 or better, at least 0; 0 for student = teacher and for B <= 2, where one distance is its own mean.

    Raises:
        ValueError: the batches differ in size, or an argument has less than two axes.
        InputError: an unknown preset.

    >>> student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    >>> round(rkd_distance_loss(student, teacher).item(), 4)  # (3, 3, 6) / 4 and (2, 4, 6) / 4: two pairs, 1/4 apart
    0.0139
    """
    if preset not in DISTANCES:
        raise unknown("rkd_distance_loss: preset", preset, DISTANCES)
    with torch.autocast(student.device.type, enabled=False):
        spacing = DISTANCES[preset]
        rows, taught = flat_rows("rkd_distance_loss", student, teacher.detach())
        return F.smooth_l1_loss(spacing(rows), spacing(taught))


def rkd_angle_loss(student: Tensor, teacher: Tensor, *, chunk: int = 0, preset: str = "repdistiller") -> Tensor:
    """How differently student and teacher see the angles between every three samples of the batch::

        mean_ijk huber(a_s[i, j, k] - a_t[i, j, k]),   a[i, j, k] = cos of the angle at i between j and k

    The mean is over all B^3 triples; where j or k is i, the cosine is 0 on both sides, as it is where two samples coincide.
    All angles at once take B^3 numbers, 0.5 GB for B = 512, and B^2 D for the directions: ``chunk`` takes that many vertices i
    at a time and computes them again in the backward pass, for the same value. The gradient reaches the student only. The
    presets: repdistiller, which kd_lib equals, and mmrazor, which divides the embeddings by their length first. A rotation, a
    shift and a scale of the embeddings and a common permutation of the batch change nothing (mmrazor: no shift).

    Args:
        student: (B, D) embeddings, or (B, c, h, w) maps that are flattened, any float type; computed in float32 or better,
            outside autocast.
        teacher: (B, D'), the same samples in the same order; a constant here.
        chunk: vertices at a time; 0 is all.
        preset: "repdistiller", "kd_lib" or "mmrazor".

    Returns:
        () float32 or better, between 0 and 3/2; 0 for student = teacher and for B = 1.

    Raises:
        ValueError: the batches differ in size, an argument has less than two axes, or chunk is negative.
        InputError: an unknown preset.

    >>> student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    >>> round(rkd_angle_loss(student, teacher).item(), 4)  # huber(1) and twice huber(0.2929), of each two: 1.1716 / 27
    0.0434
    """
    if preset not in EMBEDDINGS:
        raise unknown("rkd_angle_loss: preset", preset, EMBEDDINGS)
    if chunk < 0:
        raise ValueError(f"rkd_angle_loss: chunk is a number of vertices, or 0 for all, not {chunk}")
    with torch.autocast(student.device.type, enabled=False):
        rows, taught = map(EMBEDDINGS[preset], flat_rows("rkd_angle_loss", student, teacher.detach()))
        starts = range(0, len(student), chunk or len(student))
        if len(starts) == 1:
            return _angle_differences(rows, taught, slice(None)) / len(student) ** 3
        vertices = [slice(start, start + chunk) for start in starts]
        parts = [
            checkpoint(_angle_differences, rows, taught, i, use_reentrant=False, preserve_rng_state=False) for i in vertices
        ]
        return torch.stack(parts).sum() / len(student) ** 3


def _angle_differences(student: Tensor, teacher: Tensor, vertices: slice) -> Tensor:
    """Sum of huber over the angles at some vertices: two (B, D) -> ()."""
    return F.smooth_l1_loss(_angles(student, vertices), _angles(teacher, vertices), reduction="sum")


def _angles(rows: Tensor, vertices: slice) -> Tensor:
    """Cosines of the angles at V of the rows between all others: (B, D) -> (V, B, B)."""
    directions = unit_rows(rows[None] - rows[vertices, None])  # (V, B, D)
    return directions @ directions.mT


def _distances(rows: Tensor, *, smallest: float, eps: float) -> Tensor:
    """Distances over their mean, the diagonal 0: (B, D) -> (B, B)."""
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=smallest)
    distances = distances.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), 0)
    pairs = max(len(rows) * (len(rows) - 1), 1)
    mean = distances.sum() / pairs + eps
    return distances / mean.clamp(min=smallest)  # only a batch of one has no distance to divide by


def _unchanged(rows: Tensor) -> Tensor:
    """The embeddings as they are."""
    return rows


EMBEDDINGS: dict[str, Callable[[Tensor], Tensor]] = {"repdistiller": _unchanged, "kd_lib": _unchanged, "mmrazor": unit_rows}
DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "repdistiller": partial(_distances, smallest=1e-6, eps=0.0),
    "kd_lib": partial(_distances, smallest=1e-5, eps=1e-7),
    "mmrazor": lambda rows: _distances(unit_rows(rows), smallest=1e-6, eps=0.0),
}
