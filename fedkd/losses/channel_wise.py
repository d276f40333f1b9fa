"""Channel-wise distillation, CWD, for dense prediction: Shu et al. 2020, arXiv 2011.13256."""

from __future__ import annotations

from torch import Tensor

from fedkd.losses.distillation import kd_loss
from fedkd.losses.shapes import require_shape
from fedkd.losses.spatial import maps_of_one_shape


def cwd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Where each channel is active: the divergence of its softmax over places from the teacher's::

        T^2 * mean_bc sum_hw p_t log(p_t / p_s),   p = softmax over h * w of f / T

    That is ``kd_loss`` with a row for each channel of each sample. Meant for the logit maps of segmentation, and for features
    alike. An offset for each channel changes nothing. The authors train with T = 4; T = 1 is the default of their code and of
    mmrazor's. The gradient reaches the student only.

    Args:
        student: (B, c, h, w) maps, any float type; computed in float32 or better, in log space.
        teacher: (B, c, h, w), the same samples in the same order; a constant here.
        temperature: T > 0.

    Returns:
        () float32 or better, at least 0.

    Raises:
        ValueError: the maps differ in shape, or are not (B, c, h, w).

    >>> import torch
    >>> student, teacher = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.0, 3.0]]]]).log1p()  # (1/2, 1/2) and (1/5, 4/5)
    >>> round(cwd_loss(student, teacher, temperature=1.0).item(), 4)  # 1/5 log(2/5) + 4/5 log(8/5)
    0.1927
    """
    cure = "bring the student's to the teacher's with a ConvolutionalRegressor(..., relu=False)"
    s, t = maps_of_one_shape("cwd_loss", student, teacher, cure=cure)
    require_shape("cwd_loss: student", s, "B", "c", "h", "w")
    return kd_loss(s.flatten(2).flatten(0, 1), t.flatten(2).flatten(0, 1), temperature=temperature)  # (B * c, h * w)
