"""Shares for which the teachers' gradients oppose each other least: Du et al. 2020 (NeurIPS), AE-KD."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.targets.capped_simplex import Objective, minimise
from fedkd.targets.means import weighted
from fedkd.targets.target import Target
from fedkd.targets.teachers import constant, teacher_probabilities


def min_norm_weights(gradients: Tensor, *, cap: float = 0.6) -> Tensor:
    """The shares whose mixture of gradients is shortest, none above the cap::

        w = argmin |sum_k w_k g_k|^2   subject to 0 <= w_k <= cap, sum_k w_k = 1

    The direction against that mixture is one in which no objective grows, if there is any (with a cap of 1): the
    multiple-gradient descent algorithm. The cap keeps the teacher of the shortest gradient, whom the student imitates already,
    from taking all. Where several shares are shortest, it is the middle of them: equal gradients share equally. The official
    code has a one-class support-vector machine solve the same problem to 1e-6; here an interior-point method does, to 1e-13.

    Args:
        gradients: (K, D) of K >= 1 teachers, finite, any float type; computed in float64. Only their ratios count.
        cap: the largest share; a cap below 1 / K, which no shares satisfy, is raised to it.

    Returns:
        (K,) numbers >= 0 that sum to one, float32 or better.

    Raises:
        ValueError: gradients of another number of dimensions, or of no teacher, or not finite.

    >>> gradients = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # w1^2 + 4 w2^2 is least at (4/5, 1/5)
    >>> min_norm_weights(gradients, cap=1.0), min_norm_weights(gradients)
    (tensor([0.8000, 0.2000]), tensor([0.6000, 0.4000]))
    """
    if gradients.dim() != 2 or not len(gradients) or not bool(gradients.isfinite().all()):
        raise ValueError(f"min_norm_weights: gradients are (K, D) of K >= 1 teachers, and finite, not {tuple(gradients.shape)}")
    teachers, dtype = len(gradients), constant(gradients).dtype
    with torch.autocast(gradients.device.type, enabled=False):
        rows = constant(gradients).double()
        rows = rows / rows.abs().amax().clamp_min(torch.finfo(rows.dtype).tiny)  # squares neither overflow nor vanish
        gram = rows @ rows.T  # (K, K)
        gram = gram / gram.diagonal().amax().clamp_min(1)  # an entry of rows is 1, unless all are 0
        start = torch.full_like(gram[:1], 1 / teachers)  # (1, K)
        if cap * teachers <= 1:
            return start[0].to(dtype)
        objective = Objective(lambda x: (x @ gram * x).sum(-1, keepdim=True) / 2, lambda x: (x @ gram, gram[None]))
        return minimise(objective, start, min(cap, 1.0), tolerance=1e-13)[0].to(dtype)


def min_norm(logits: Tensor, student: Tensor, *, temperature: float = 4.0, cap: float = 0.6) -> Target:
    """The mixture of the teachers' probabilities in the shares of ``min_norm_weights`` for the gradients of distillation::

        p = sum_k w_k softmax(z_k / T),   g_k = T mean_b (softmax(student / T) - softmax(z_k / T))

    g_k is the gradient of T^2 KL(teacher k || student) in the student's logits, averaged over the batch as in the official
    code: one set of shares a batch, which changes with every step. Classes of a large batch average out in g_k, and what is
    left says how the teachers differ in their shares of classes, not where they are right. Uses no labels.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type; constants.
        student: (B, C) the student's logits on the same samples; a constant.
        temperature: T > 0.
        cap: the largest share, as in ``min_norm_weights``.

    Returns:
        probabilities (B, C) at that temperature, float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher; a student of another shape; a temperature that is
            not positive.

    >>> logits = torch.tensor([[[0.0, 3.0]], [[1.0, 0.0]]]).log1p()  # (1/5, 4/5) and (2/3, 1/3)
    >>> min_norm(logits, torch.zeros(1, 2), temperature=1.0, cap=1.0).probabilities()  # gradients -3/10, 1/6: w 5/14, 9/14
    tensor([[0.5000, 0.5000]])
    """
    probabilities = teacher_probabilities("min_norm", logits, temperature)  # (K, B, C)
    if student.shape != logits.shape[1:]:
        raise ValueError(
            f"min_norm: the student's logits are {tuple(logits.shape[1:])} as a teacher's, not {tuple(student.shape)}"
        )
    own = (constant(student) / temperature).softmax(-1)  # (B, C)
    gradients = temperature * (own - probabilities).sum(1) / max(len(own), 1)  # (K, C)
    return weighted(logits, min_norm_weights(gradients, cap=cap), temperature=temperature)
