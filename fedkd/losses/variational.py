"""Variational information distillation: Ahn et al. 2019, arXiv 1904.05835."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.losses.shapes import require_shape
from fedkd.losses.spatial import match_spatial


class VIDLoss(nn.Module):
    """Gaussian negative log-likelihood of the teacher's map given the student's: a bound on their mutual information::

        loss = 1/2 mean_{b,c,h,w} [ (mu(f_s) - f_t)^2 / v_c + log v_c ],   v_c = log(1 + exp alpha_c) + eps

    mu is three 1x1 convolutions without bias with ReLU between them. alpha, one number a teacher channel, is a parameter that
    has to be in the optimizer, or the variance stays what it was. The constant log(2 pi) / 2 is left out. The larger map is
    averaged down to the smaller. Computed in the parameters' type, outside autocast: keep the module in float32 or float64.

    Args:
        student_channels: c of the student's maps.
        teacher_channels: c of the teacher's maps.
        mid_channels: of the hidden layers of mu; the teacher's by default.
        initial_variance: v at the start, in squares of the teacher's unit; > eps.
        eps: the least variance.

    Raises:
        ValueError: initial_variance is not above eps.

    >>> vid = VIDLoss(1, 1, initial_variance=1.0)
    >>> _ = [nn.init.zeros_(weight) for weight in vid.mean.parameters()]  # predicts 0
    >>> round(vid(torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0)).item(), 4)  # (3^2 / 1 + log 1) / 2
    4.5
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        mid_channels: int | None = None,
        initial_variance: float = 5.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if initial_variance <= eps:
            raise ValueError(f"VIDLoss: the initial variance {initial_variance} must be above eps, {eps}")
        mid = teacher_channels if mid_channels is None else mid_channels
        self.student_channels, self.teacher_channels, self.eps = student_channels, teacher_channels, eps
        self.mean = nn.Sequential(
            nn.Conv2d(student_channels, mid, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(mid, mid, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(mid, teacher_channels, 1, bias=False),
        )
        # The inverse of softplus, so that the variance starts where it was asked to.
        self.alpha = nn.Parameter(torch.full((teacher_channels,), math.log(math.expm1(initial_variance - eps))))

    @property
    def variance(self) -> Tensor:
        """(c,) the variance of each teacher channel, positive."""
        return F.softplus(self.alpha) + self.eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss; gradient to the student, mu and the variance.

        Args:
            student: (B, c_s, h, w) maps, any float type.
            teacher: (B, c_t, h', w') of the same samples, in the same order; a constant here.

        Returns:
            () float32 or better; negative where variances are below 1 and predictions good.

        Raises:
            ValueError: another number of channels or samples.
        """
        require_shape("VIDLoss: student", student, "B", self.student_channels, "h", "w")
        require_shape("VIDLoss: teacher", teacher, len(student), self.teacher_channels, "h", "w")
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = match_spatial(student.to(self.alpha.dtype), teacher.detach().to(self.alpha.dtype))
            variance = self.variance[:, None, None]  # (c_t, 1, 1)
            error: Tensor = self.mean(student) - teacher  # (B, c_t, h, w)
            return 0.5 * (error.square() / variance + variance.log()).mean()
