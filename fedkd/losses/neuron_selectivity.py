"""Neuron selectivity transfer, NST: Huang and Wang 2017, arXiv 1707.01219, with the polynomial kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.losses.rows import unit_rows
from fedkd.losses.spatial import maps_of_one_size


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy between the channels of student and teacher, each a vector over places::

        mean_bij K(t_i, t_j) + mean_bij K(s_i, s_j) - 2 mean_bij K(s_i, t_j),   K(x, y) = (x . y)^2

    A channel's h * w activations are divided by their 2-norm. The first term is constant: it makes the loss a squared distance,
    0 where the channels have the same second moments sum x x^T, and does not move the gradient. As RepDistiller computes it.

    The larger map is first averaged down to the smaller; channels may differ in number. A channel's sign and positive scale and
    the order of channels change nothing. The gradient reaches the student only; a channel that is all zeros gets none.

    Args:
        student: (B, c, h, w) maps, any float type; computed in float32 or better, outside autocast.
        teacher: (B, c', h', w'), the same samples in the same order; a constant here.

    Returns:
        () float32 or better, at least 0 but for rounding. Needs memory for B * max(c, c')^2 numbers.

    Raises:
        ValueError: an argument is not (B, c, h, w), or the batches differ in size.

    >>> student, teacher = torch.eye(2).view(1, 2, 1, 2), torch.tensor([[[[5.0, 0.0]]]])  # channels (1,0), (0,1); and (1,0)
    >>> nst_loss(student, teacher).item()  # 1 + (1 + 1) / 4 - 2 * 1 / 2
    0.5
    """
    with torch.autocast(student.device.type, enabled=False):
        s, t = (unit_rows(maps.flatten(2)) for maps in maps_of_one_size("nst_loss", student, teacher))  # (B, c, h * w)
        return _mean_kernel(t, t) + _mean_kernel(s, s) - 2 * _mean_kernel(s, t)


def _mean_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Mean over batch and pairs of (x_i . y_j)^2: (B, c, h * w), (B, c', h * w) -> ()."""
    return (x @ y.mT).square().mean()
