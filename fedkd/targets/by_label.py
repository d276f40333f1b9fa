"""Targets picked by the label, from KDCL: Guo et al. 2020 (CVPR), section 3.2. There is no official code."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.targets.target import Target
from fedkd.targets.teachers import label_columns, label_losses, teacher_logits


def lowest_loss(logits: Tensor, labels: Tensor) -> Target:
    """For every sample the logits of the teacher that knows its label best: KDCL-Naive::

        z = z_k*,   k* = argmin_k -log softmax(z_k)[y]

    Of equals the first. Labels leak into the target: a teacher that is right by chance is chosen, so the ensemble seems
    better on training samples than it is.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type; constants.
        labels: (B,) integers below C.

    Returns:
        logits (B, C), float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher; labels that are not one class a sample.

    >>> logits = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [0.0, 2.0]]])
    >>> lowest_loss(logits, torch.tensor([1, 0])).logits()  # the second teacher's, then the first's
    tensor([[0., 3.],
            [1., 0.]])
    """
    best = label_losses("lowest_loss", logits, labels).argmin(0)  # (B,)
    return Target(teacher_logits("lowest_loss", logits)[best, torch.arange(len(best), device=best.device)], "logits")


def min_logit(logits: Tensor, labels: Tensor) -> Target:
    """For every class the least logit of all teachers, where the label's is 0: KDCL-MinLogit::

        z[c] = min_k (z_k[c] - z_k[y])

    Of all that can be put together from the teachers' shifted logits, this has the lowest cross-entropy,
    log sum_c exp z[c]. It is surer than every teacher, also where all of them are wrong. Labels leak into the target.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type; constants.
        labels: (B,) integers below C.

    Returns:
        logits (B, C), 0 at the label, float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher; labels that are not one class a sample.

    >>> min_logit(torch.tensor([[[1.0, 2.0, 0.0]], [[4.0, 5.0, 6.0]]]), torch.tensor([0])).logits()  # of (0, 1, -1), (0, 1, 2)
    tensor([[ 0.,  1., -1.]])
    """
    columns = label_columns("min_logit", logits, labels)  # (K, B, 1)
    constants = teacher_logits("min_logit", logits)
    return Target((constants - constants.gather(-1, columns)).amin(0), "logits")
