"""Correlation congruence, CC: Peng et al. 2019, arXiv 1904.01802, in the three forms that libraries give it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fedkd.base.errors import unknown
from fedkd.losses.rows import flat_rows, unit_rows


def cc_loss(student: Tensor, teacher: Tensor, *, detach: bool = True, preset: str = "repdistiller") -> Tensor:
    """How differently student and teacher relate the samples of the batch; what that means depends on the library::

        repdistiller    mean_i sum_d |s_i - t_i|_d |s_i+1 - t_i+1|_d      i = 1 .. B - 1
        torchdistill    |K(s) - K(t)| / B^2                               Frobenius norm, not squared
        kd_zoo          mean_ij (K(s / |s|)_ij - K(t / |t|)_ij)^2

        K(e)_ij = exp(-2 gamma) * sum_{p = 0..2} (2 gamma e_i . e_j)^p / p!,   gamma = 0.4

    K is the paper's: the Taylor series, of order 2, of a Gaussian kernel of rows of length 1. RepDistiller's form, which its
    author had from the paper's, is no kernel: it multiplies errors of neighbours, so it wants embeddings of one width, depends
    on the order of the batch (shuffle it) and is 0 where every second row is right. In the method both embeddings are trained
    linear maps of the nets' features: ``detach=False`` gives the teacher's its gradient too.

    Args:
        student: (B, D) embeddings, or (B, c, h, w) maps that are flattened, any float type; computed in float32 or better,
            outside autocast.
        teacher: (B, D), the same samples in the same order; the kernels may take another width.
        detach: whether the teacher is a constant.
        preset: "repdistiller", "torchdistill" or "kd_zoo".

    Returns:
        () float32 or better, at least 0; 0 for student = teacher. repdistiller: 0 for B = 1, which has no neighbours.

    Raises:
        ValueError: the batches differ in size, or for repdistiller in width, or an argument has less than two axes.
        InputError: an unknown preset.

    >>> student, teacher = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]]), torch.zeros(3, 2)
    >>> cc_loss(student, teacher).item()  # (1 * 3 + 2 * 0 + 3 * 0 + 0 * 1) / 2
    1.5
    """
    if preset not in PRESETS:
        raise unknown("cc_loss: preset", preset, PRESETS)
    with torch.autocast(student.device.type, enabled=False):
        return PRESETS[preset](*flat_rows("cc_loss", student, teacher.detach() if detach else teacher))


def _neighbours(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over i of |delta_i| . |delta_i+1|: two (B, D) -> ()."""
    if student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"cc_loss: the widths of student and teacher differ, {shapes}: embed both linearly, or use a kernel")
    error = (student - teacher).abs()  # (B, D)
    return (error[:-1] * error[1:]).sum() / max(len(error) - 1, 1)


def _kernel(rows: Tensor) -> Tensor:
    """The Gaussian kernel's Taylor series of order 2: (B, D) -> (B, B)."""
    scaled = 2 * GAMMA * (rows @ rows.T)  # (B, B)
    return math.exp(-2 * GAMMA) * (1 + scaled + scaled.square() / 2)


def _frobenius(student: Tensor, teacher: Tensor) -> Tensor:
    """Norm of the kernels' difference over B^2; at equality its gradient is 0."""
    norm: Tensor = torch.linalg.vector_norm(_kernel(student) - _kernel(teacher))
    return norm / len(student) ** 2


def _mean_square(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean square of the difference of the kernels of directions."""
    return (_kernel(unit_rows(student)) - _kernel(unit_rows(teacher))).square().mean()


GAMMA = 0.4
PRESETS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "repdistiller": _neighbours,
    "torchdistill": _frobenius,
    "kd_zoo": _mean_square,
}
