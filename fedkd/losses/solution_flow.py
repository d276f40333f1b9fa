"""Flow of the solution procedure, FSP: Yim et al. 2017 (CVPR), A Gift from Knowledge Distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.base.errors import unknown
from fedkd.losses.precision import at_least_float32
from fedkd.losses.shapes import require_shape
from fedkd.losses.spatial import Pool, match_spatial


def fsp_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], *, preset: str = "repdistiller") -> Tensor:
    """What lies between two layers, the products of their channels, is taught instead of the layers themselves::

        G[b, i, j] = mean_hw first[b, i, hw] * second[b, j, hw]

    The larger map of a pair is brought to the size of the smaller; student and teacher need not agree in size, but each
    student's map must have the channels of the teacher's. The presets are what libraries compute::

        repdistiller    average pooling;    mean_bij (G_s - G_t)^2                        the paper's squared distance
        torchdistill    maximum pooling;    mean_b sum_j sqrt(sum_i (G_s - G_t)^2)        columns' unsquared norms

    The gradient reaches both of the student's maps and no teacher; under "torchdistill" a column that fits gets none.

    Args:
        student: two maps (B, c, h, w) and (B, d, h', w'), any float type; computed in float32 or better, outside autocast.
        teacher: two maps with c and d channels of the same samples in the same order; constants here.
        preset: "repdistiller" or "torchdistill".

    Returns:
        () float32 or better, at least 0.

    Raises:
        ValueError: a map is not (B, c, h, w), the batches differ in size, or student and teacher in channels.
        InputError: an unknown preset.

    >>> ones = torch.ones(1, 1, 2, 2)  # G is 2 * 1 for the student and 1 for the teacher
    >>> fsp_loss((2 * ones, ones), (ones, ones)).item(), fsp_loss((4 * ones, ones), (ones, ones), preset="torchdistill").item()
    (1.0, 3.0)
    """
    if preset not in PRESETS:
        raise unknown("fsp_loss: preset", preset, PRESETS)
    for name, of_student, of_teacher in zip(("first", "second"), student, teacher, strict=True):
        require_shape(f"fsp_loss: student's {name} map", of_student, len(student[0]), "c", "h", "w")
        require_shape(f"fsp_loss: teacher's {name} map", of_teacher, *of_student.shape[:2], "h", "w")
    pool, distance = PRESETS[preset]
    with torch.autocast(student[0].device.type, enabled=False):
        constant = teacher[0].detach(), teacher[1].detach()
        return distance(_flow(student, pool) - _flow(constant, pool))


def _flow(pair: tuple[Tensor, Tensor], pool: Pool) -> Tensor:
    """Mean products of channels: (B, c, h, w), (B, d, h', w') -> (B, c, d)."""
    first, second = match_spatial(at_least_float32(pair[0]), at_least_float32(pair[1]), pool=pool)
    first, second = first.flatten(2), second.flatten(2)  # (B, c, h * w), (B, d, h * w)
    return first @ second.mT / first.shape[2]


def _mean_square(difference: Tensor) -> Tensor:
    """Mean over B * c * d: (B, c, d) -> ()."""
    return difference.square().mean()


def _column_lengths(difference: Tensor) -> Tensor:
    """Mean over the batch of the sum of the columns' lengths: (B, c, d) -> ()."""
    length: Tensor = torch.linalg.vector_norm(difference, dim=1)  # (B, d)
    return length.sum(1).mean()


#: By name: how the larger map is made smaller, and the size of the difference of two G.
PRESETS: dict[str, tuple[Pool, Callable[[Tensor], Tensor]]] = {
    "repdistiller": (F.adaptive_avg_pool2d, _mean_square),
    "torchdistill": (F.adaptive_max_pool2d, _column_lengths),
}
