"""Entropy-based weights: sure teachers weigh more. Kwon et al. 2020 (ICASSP), EBKD."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.targets.means import weighted
from fedkd.targets.target import Target
from fedkd.targets.teachers import teacher_logits


def entropy_weights(logits: Tensor, *, normalise: bool = True) -> Tensor:
    """For every sample, what each teacher's entropy leaves of one::

        H_k = -sum_c p_k log p_k,  p_k = softmax(z_k)        always at temperature 1
        w_k = 1 - H_k / sum_j H_j                            sums to K - 1
        w_k / (K - 1)                                        with ``normalise``; 1 for K = 1

    The official code of CA-MKD, which has EBKD as a baseline, does not normalise: its loss grows with K, and a single teacher
    weighs 0. Teachers without entropy, which divide 0 by 0 there, weigh alike here. An overconfident teacher weighs most,
    right or wrong. With many teachers all weights tend to 1 / K. Uses no labels.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type; constants.
        normalise: whether the weights sum to one.

    Returns:
        (K, B) numbers >= 0, float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[200.0, 0.0]], [[0.0, 0.0]]])  # entropies log 2, 0, log 2
    >>> entropy_weights(logits).squeeze(1), entropy_weights(logits, normalise=False).squeeze(1)
    (tensor([0.2500, 0.5000, 0.2500]), tensor([0.5000, 1.0000, 0.5000]))
    """
    log_p = teacher_logits("entropy_weights", logits).log_softmax(-1)  # (K, B, C)
    entropies = -(log_p.exp() * log_p).sum(-1)  # (K, B)
    total = entropies.sum(0)  # (B,)
    teachers = len(entropies)
    weights = 1 - torch.where(total > 0, entropies / total, 1 / teachers)
    if not normalise:
        return weights
    return weights / (teachers - 1) if teachers > 1 else torch.ones_like(weights)


def entropy(logits: Tensor, *, temperature: float = 1.0) -> Target:
    """The mixture of the teachers' probabilities at T in the shares of ``entropy_weights``::

        p = sum_k w_k softmax(z_k / T),   sum_k w_k = 1

    Uses no labels; the hazards are those of ``entropy_weights``.

    Args:
        logits: (K, B, C) of K >= 1 teachers, any float type; constants.
        temperature: T > 0 of the mixture; the weights are at temperature 1.

    Returns:
        probabilities (B, C) at that temperature, float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher; a temperature that is not positive.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[200.0, 0.0]], [[0.0, 0.0]]])  # weights 1/4, 1/2, 1/4
    >>> entropy(logits).probabilities()
    tensor([[0.7500, 0.2500]])
    """
    return weighted(logits, entropy_weights(logits), temperature=temperature)
