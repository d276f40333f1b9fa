"""Class-wise self-distillation, CS-KD: samples of one class teach one another. Yun et al. 2020, arXiv 2003.13964."""

from __future__ import annotations

from torch import Tensor

from fedkd.losses.cross_entropy import cross_entropy_loss
from fedkd.losses.distillation import kd_loss


def cskd_loss(student: Tensor, partner: Tensor, labels: Tensor, *, temperature: float = 4.0, weight: float = 1.0) -> Tensor:
    """Cross-entropy, plus the divergence from the net's prediction on another sample of the same class::

        CE(student, y) + weight * T^2 * mean_b KL(softmax(partner / T) || softmax(student / T))

    Row b of the partner is the same net's logits of another sample of class y_b, best computed without a graph: the gradient
    reaches the student only. The whole training loss of the method, cross-entropy included.

    Args:
        student: (B, C) logits, any float type; computed in float32 or better, in log space.
        partner: (B, C) logits, row by row of another sample of the same class; a constant here.
        labels: (B,) int64 class ids in 0 .. C - 1, of both.
        temperature: T > 0.
        weight: >= 0; the authors take 1, and 3 on fine-grained data.

    Returns:
        () float32 or better, at least the cross-entropy.

    Raises:
        ValueError: the logits differ in shape.
        IndexError: a label is not a class id.

    >>> import torch
    >>> student, partner = torch.zeros(1, 2), torch.tensor([[0.0, 3.0]]).log1p()  # (1/2, 1/2) and (1/5, 4/5)
    >>> round(cskd_loss(student, partner, torch.tensor([0]), temperature=1.0).item(), 4)  # log 2 + 0.1927
    0.8859
    """
    if student.shape != partner.shape:
        shapes = f"{tuple(student.shape)} and {tuple(partner.shape)}"
        raise ValueError(f"cskd_loss: the shapes of student and partner logits differ, {shapes}")
    return cross_entropy_loss(student, labels) + weight * kd_loss(student, partner, temperature=temperature)
