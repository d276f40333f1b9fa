"""Not-true distillation of FedNTD: only the order among the wrong classes is taught. Lee et al. 2022, arXiv 2106.03097."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.losses.distillation import kd_loss


def not_true_loss(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float = 1.0) -> Tensor:
    """The distillation loss over the C - 1 classes that are not the label::

        T^2 * mean_b KL(softmax(teacher without y / T) || softmax(student without y / T))

    The true class is taken out, not masked by a large number: its logits, the student's and the teacher's, change nothing.
    The gradient reaches the student's other logits only.

    Args:
        student: (B, C) logits, any float type; computed in float32 or better, in log space.
        teacher: (B, C) logits, the same samples in the same order; a constant here.
        labels: (B,) int64 class ids in 0 .. C - 1.
        temperature: T > 0.

    Returns:
        () float32 or better, at least 0; 0 for two classes, where one is left.

    Raises:
        ValueError: the logits differ in shape.
        RuntimeError: a label is not a class id.

    >>> student, teacher = torch.zeros(1, 3), torch.tensor([[9.0, 0.0, 3.0]]).log1p()
    >>> round(not_true_loss(student, teacher, torch.tensor([0])).item(), 4)  # (1/2, 1/2) taught (1/5, 4/5)
    0.1927
    """
    if student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"not_true_loss: the shapes of student and teacher logits differ, {shapes}")
    return kd_loss(without_true(student, labels), without_true(teacher, labels), temperature=temperature)


def without_true(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits of the classes that are not the label, in their order: (B, C) and (B,) int64 -> (B, C - 1).

    >>> without_true(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor([1, 0])).tolist()
    [[1.0, 3.0], [5.0, 6.0]]
    """
    logits.detach().gather(1, labels[:, None])  # raises where a label is no class id
    places = torch.arange(logits.shape[1] - 1, device=logits.device)  # (C - 1,)
    return logits.gather(1, places + (places >= labels[:, None]))
