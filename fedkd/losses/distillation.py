"""Knowledge distillation of logits: Hinton et al. 2015, arXiv 1503.02531, section 2."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from fedkd.base.errors import unknown
from fedkd.losses.precision import at_least_float32


def kd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 4.0,
    squared_temperature: bool | None = None,
    preset: str = "repdistiller",
) -> Tensor:
    """KL divergence from the student's softened prediction to the teacher's::

        T^2 * mean_b sum_c p_t log(p_t / p_s),   p_t = softmax(teacher / T),   p_s = softmax(student / T)

    Summed over classes and averaged over the batch; some published code divides by B * C, which is C times smaller. T^2
    keeps the gradient's size, T (p_s - p_t) / B, when T changes; several federated papers leave it out. The presets are
    what libraries compute under this name::

        repdistiller    T^2 * mean_b sum_c p_t log(p_t / p_s)    also mdistiller, torchdistill
        kd_lib          T^2 * mean_bc (p_s - p_t)^2              a regression of probabilities
        textbrewer      -mean_b sum_c p_t log p_s                without T^2; not 0 where both predict alike

    The gradient reaches the student only.

    Args:
        student: (B, C) logits, any float type; computed in float32 or better, in log space.
        teacher: (B, C) logits, the same samples in the same order; a constant here.
        temperature: T > 0.
        squared_temperature: whether the mean is multiplied by T^2; None is as the preset does.
        preset: "repdistiller", "kd_lib" or "textbrewer".

    Returns:
        () float32 or better, at least 0; 0 where both predict alike (textbrewer: the teacher's mean entropy).

    Raises:
        ValueError: the logits differ in shape.
        InputError: an unknown preset.

    >>> import torch
    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 3.0]]).log1p()  # (1/2, 1/2) and (1/5, 4/5)
    >>> round(kd_loss(student, teacher, temperature=1.0).item(), 4)  # 1/5 log(2/5) + 4/5 log(8/5)
    0.1927
    >>> round(kd_loss(student, teacher, temperature=1.0, preset="kd_lib").item(), 4)  # 0.3^2
    0.09
    >>> round(kd_loss(student, teacher, temperature=1.0, preset="textbrewer").item(), 4)  # log 2
    0.6931
    """
    if student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"kd_loss: the shapes of student and teacher logits differ, {shapes}")
    if preset not in PRESETS:
        raise unknown("kd_loss: preset", preset, PRESETS)
    divergence, by_default = PRESETS[preset]
    log_student = F.log_softmax(at_least_float32(student) / temperature, dim=1)  # (B, C)
    log_teacher = F.log_softmax(at_least_float32(teacher.detach()) / temperature, dim=1)  # (B, C)
    squared = by_default if squared_temperature is None else squared_temperature
    return divergence(log_student, log_teacher) * (temperature**2 if squared else 1.0)


def _kl(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """Mean over the batch of KL(teacher || student)."""
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def _squared_difference(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """Mean over all B * C probabilities."""
    return F.mse_loss(log_student.exp(), log_teacher.exp())


def _cross_entropy(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """Mean over the batch of the teacher's cross-entropy with the student."""
    return -(log_teacher.exp() * log_student).sum(1).mean()


#: By name: the mean divergence of two log-predictions (B, C), and whether the library multiplies it by T^2.
PRESETS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "repdistiller": (_kl, True),
    "kd_lib": (_squared_difference, True),
    "textbrewer": (_cross_entropy, False),
}
