"""Overhaul of feature distillation, OFD: Heo et al. 2019, arXiv 1904.01866. A margin ReLU and a partial distance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedkd.losses.precision import at_least_float32
from fedkd.losses.shapes import require_shape
from fedkd.losses.spatial import maps_of_one_shape


def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Squared distance to the teacher's map, except where both neurons are off and the student's below its target::

        1/B * sum_bchw [s > t' or t' > 0] (s - t')^2,   t' = max(t, m_c)

    As in the authors' code, without its weights 1/1000 and 2^(i - n + 1) of layer i. There the teacher stays in train mode: its
    BatchNorm uses the batch's statistics. The gradient reaches the student only.

    Args:
        student: (B, c, h, w) maps after an ``OverhaulConnector``, any float type; computed in float32 or better.
        teacher: (B, c, h, w) before the ReLU, the same samples in the same order; a constant here.
        margin: (c,) m, at most 0, what a negative activation counts as; from ``ofd_margin``. A constant here.

    Returns:
        () float32 or better, at least 0.

    Raises:
        ValueError: the maps differ in shape, or the margin has not one number a channel.

    >>> student, teacher = torch.tensor([3.0, -5.0, 0.0, 1.0]), torch.tensor([1.0, -4.0, -4.0, -0.5])
    >>> loss = ofd_loss(student.view(1, 1, 2, 2), teacher.view(1, 1, 2, 2), torch.tensor([-1.0]))
    >>> loss.item()  # t' = (1, -1, -1, -0.5): 2^2, skipped, 1^2, 1.5^2
    7.25
    """
    cure = "bring the student's to the teacher's with an OverhaulConnector"
    s, t = maps_of_one_shape("ofd_loss", student, teacher, cure=cure)
    require_shape("ofd_loss: student", s, "B", "c", "h", "w")
    require_shape("ofd_loss: margin", margin, s.shape[1])
    target = torch.maximum(t, margin.detach().to(t)[:, None, None])  # (B, c, h, w)
    counts = (s > target) | (target > 0)
    return torch.where(counts, (s - target).square(), 0.0).sum() / len(s)


def ofd_margin(weight: Tensor, bias: Tensor) -> Tensor:
    """What a channel's negative activations are on average, from the BatchNorm before the ReLU.

    The BatchNorm makes a channel Gaussian, N(mu, sigma^2) with mu its bias and sigma its weight's absolute value::

        E[x | x < 0] = mu - sigma phi(mu / sigma) / Phi(-mu / sigma)

    with phi and Phi the standard normal density and distribution. Where less than 1 in 1000 is negative the authors take
    -3 sigma instead. A channel of sigma = 0 is constant: min(mu, 0).

    Args:
        weight: (c,) of the teacher's BatchNorm, any float type; computed in float32 or better.
        bias: (c,) of the same.

    Returns:
        (c,) float32 or better, finite, at most 0, without a gradient.

    Raises:
        ValueError: weight and bias are not (c,) both.

    >>> margin = ofd_margin(torch.tensor([1.0, -2.0, 1.0]), torch.tensor([0.0, 0.0, 9.0]))
    >>> [round(value, 4) for value in margin.tolist()]  # -sqrt(2 / pi), twice that, and -3
    [-0.7979, -1.5958, -3.0]
    """
    require_shape("ofd_margin: weight", weight, "c")
    require_shape("ofd_margin: bias", bias, len(weight))
    sigma, mu = at_least_float32(weight.detach()).abs(), at_least_float32(bias.detach())
    ratio = mu / sigma.clamp(min=torch.finfo(sigma.dtype).tiny)  # may be infinite, where density is 0
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    negative = torch.special.ndtr(-ratio)  # the share of negative activations
    return torch.where(negative > 0.001, mu - sigma * density / negative, -3 * sigma)
