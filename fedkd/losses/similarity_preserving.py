"""Similarity-preserving distillation, SP: Tung and Mori 2019, arXiv 1907.09682."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.base.errors import unknown
from fedkd.losses.rows import flat_rows, unit_rows


def sp_loss(student: Tensor, teacher: Tensor, *, preset: str = "repdistiller") -> Tensor:
    """How differently student and teacher say which samples of the batch are alike::

        1/B^2 * sum_ij (G_t[i, j] - G_s[i, j])^2,   G = F F^T, its rows divided by their length

    F holds one flattened sample a row. G is B x B whatever the width, so student and teacher may have different widths. The
    gradient reaches the student only; a zero row of G has no direction and gets none. The presets differ in a row's length::

        repdistiller    the 2-norm, as in the paper; also mdistiller
        torchdistill    the 1-norm, which makes the loss far smaller

    A common rotation of all features, a common scale, and a common permutation of the batch change nothing.

    Args:
        student: (B, D) embeddings or (B, c, h, w) maps, any float type; computed in float32 or better, outside autocast.
        teacher: (B, D') or (B, c', h', w'), the same samples in the same order; a constant here.
        preset: "repdistiller" or "torchdistill".

    Returns:
        () float32 or better, at least 0; 0 for B = 1 (but at a zero vector).

    Raises:
        ValueError: the batches differ in size, or an argument has less than two axes.
        InputError: an unknown preset.

    >>> student, teacher = torch.eye(2), torch.tensor([[1.0], [1.0]])  # G: the identity, and all 1 / sqrt 2
    >>> round(sp_loss(student, teacher).item(), 4)  # ((1 - 1 / sqrt 2)^2 + 1/2) / 2
    0.2929
    """
    if preset not in PRESETS:
        raise unknown("sp_loss: preset", preset, PRESETS)
    with torch.autocast(student.device.type, enabled=False):
        pair = flat_rows("sp_loss", student, teacher.detach())
        of_student, of_teacher = (unit_rows(rows @ rows.T, order=PRESETS[preset]) for rows in pair)  # (B, B)
        return (of_teacher - of_student).square().mean()


#: By name: the order of the norm that a row of similarities is divided by.
PRESETS: dict[str, float] = {"repdistiller": 2.0, "torchdistill": 1.0}
