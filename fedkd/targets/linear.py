"""KDCL-Linear: the convex combination of logits that knows the label best. Guo et al. 2020 (CVPR), section 3.2."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.targets.capped_simplex import Objective, minimise
from fedkd.targets.target import Target
from fedkd.targets.teachers import label_columns, teacher_logits


def linear_weights(logits: Tensor, labels: Tensor) -> Tensor:
    """For every sample the shares for which the combined logits have the lowest cross-entropy::

        w = argmin -log softmax(sum_k w_k z_k)[y]   subject to w_k >= 0, sum_k w_k = 1

    A convex problem, solved by an interior-point method in float64 until the cross-entropy is within 1e-10 of the lowest, in
    units of the largest difference between two logits of a teacher. Often one teacher takes all. Labels leak into the weights.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type; constants.
        labels: (B,) integers below C.

    Returns:
        (K, B) numbers >= 0 that sum to one over teachers, float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher; labels that are not one class a sample.

    >>> logits = torch.tensor([[[0.0, 1.0, -3.0]], [[0.0, -3.0, 1.0]]])  # each is sure that the other's mistake is none
    >>> linear_weights(logits, torch.tensor([0])).squeeze(1)
    tensor([0.5000, 0.5000])
    """
    columns = label_columns("linear_weights", logits, labels)  # (K, B, 1)
    constants = teacher_logits("linear_weights", logits)
    margins = (constants - constants.gather(-1, columns)).double().transpose(0, 1)  # (B, K, C), 0 at the label
    scales = margins.abs().amax((1, 2)).clamp_min(1)[:, None]  # (B, 1)
    samples, teachers = margins.shape[:2]
    start = margins.new_full((samples, teachers), 1 / teachers)  # (B, K)
    if teachers == 1 or not samples:
        return start.T.to(constants.dtype)

    def combined(x: Tensor) -> Tensor:
        return (x[..., None] * margins).sum(1)  # (B, C)

    def derivatives(x: Tensor) -> tuple[Tensor, Tensor]:
        p = combined(x).softmax(-1)[:, None]  # (B, 1, C)
        means = (margins * p).sum(-1, keepdim=True)  # (B, K, 1): the gradient; the Hessian is the margins' covariance
        covariance = ((margins - means) * p) @ (margins - means).mT  # (B, K, K)
        return means.squeeze(-1) / scales, covariance / scales[..., None]

    with torch.autocast(logits.device.type, enabled=False):
        objective = Objective(lambda x: combined(x).logsumexp(-1, keepdim=True) / scales, derivatives)
        return minimise(objective, start).T.to(constants.dtype)


def linear(logits: Tensor, labels: Tensor) -> Target:
    """The teachers' logits in the shares of ``linear_weights``::

        z = sum_k w_k z_k

    Labels leak into the target; the hazards are those of ``lowest_loss``, which is the best of the corners of what this chooses
    from.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type; constants.
        labels: (B,) integers below C.

    Returns:
        logits (B, C), float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher; labels that are not one class a sample.

    >>> logits = torch.tensor([[[0.0, 1.0, -3.0]], [[0.0, -3.0, 1.0]]])  # shares 1/2 and 1/2
    >>> linear(logits, torch.tensor([0])).logits()
    tensor([[ 0., -1., -1.]])
    """
    weights = linear_weights(logits, labels)  # (K, B)
    return Target((weights[..., None] * teacher_logits("linear", logits)).sum(0), "logits")
