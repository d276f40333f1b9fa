"""BYOL's loss between a prediction and what another net projects: Grill et al. 2020, arXiv 2006.07733, equation 2."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.losses.precision import at_least_float32
from fedkd.losses.rows import unit_rows
from fedkd.losses.shapes import require_shape


def byol_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of directions, which sees no other sample: nothing is told apart, and no temperature is needed::

        mean_b | p_b / |p_b| - t_b / |t_b| |^2  =  mean_b 2 - 2 cos(p_b, t_b)

    Args:
        student: (B, D) predictions p, any float type and length; computed in float32 or better, outside autocast.
        teacher: (B, D) the targets t of the same samples, in the same order; a constant here.

    Returns:
        () float32 or better, between 0 and 4; 2 for a row of zeros, which has no direction.

    Raises:
        ValueError: the shapes differ, or are not (B, D).

    >>> predicted = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    >>> byol_loss(predicted, torch.tensor([[1.0, 0.0], [5.0, 0.0], [-1.0, 0.0]])).item()  # (0 + 2 + 4) / 3
    2.0
    """
    require_shape("byol_loss: student", student, "B", "D")
    require_shape("byol_loss: teacher", teacher, *student.shape)
    with torch.autocast(student.device.type, enabled=False):
        cosines = (unit_rows(at_least_float32(student)) * unit_rows(at_least_float32(teacher.detach()))).sum(1)  # (B,)
        return 2 - 2 * cosines.mean()
