"""Hints, the regression on a teacher's feature map: FitNets, Romero et al. 2014, arXiv 1412.6550."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.spatial import maps_of_one_shape


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two maps, over all their elements::

        mean_bchw (f_s - f_t)^2

    The paper writes half the sum; libraries take this mean. Where a student's map has another shape than the teacher's, a
    ``ConvolutionalRegressor`` stands between, and its output comes here. The gradient reaches the student only.

    Args:
        student: (B, c, h, w) maps, any float type; computed in float32 or better.
        teacher: (B, c, h, w), the same samples in the same order; a constant here.

    Returns:
        () float32 or better, at least 0.

    Raises:
        ValueError: the maps differ in shape.

    >>> import torch
    >>> hint_loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]])).item()  # (1 + 9) / 2
    5.0
    """
    cure = "bring the student's to the teacher's with a ConvolutionalRegressor"
    return F.mse_loss(*maps_of_one_shape("hint_loss", student, teacher, cure=cure))
