"""ExpGuard: what clients count for, by how far they have stood out so far. Roux et al. 2025, arXiv 2402.12265."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.aggregate.precision import as_float64


def outlier_scores(values: Tensor, centre: Tensor) -> Tensor:
    """How far each client stands out: the mean over rows of its Euclidean distance from the centre.

    Args:
        values: (K, P, C).
        centre: (P, C), what some reduction made of them.

    Returns:
        (K,) float64.

    >>> outlier_scores(torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]]), torch.zeros(1, 2)).tolist()
    [0.0, 5.0]
    """
    distances: Tensor = torch.linalg.vector_norm(as_float64(values) - as_float64(centre), dim=-1)  # (K, P)
    return distances.mean(1)


def discounted(log_weights: Tensor, scores: Tensor, step: float) -> Tensor:
    """Logarithms of weights after ``w_k <- w_k exp(-step * score_k)``, but for one factor of all these clients.

    The factor is ``exp(step * mean score)``: of these clients' shares nothing changes, and who takes part often does not fall
    behind those who seldom do.

    Args:
        log_weights: (K,) those of the clients whose scores these are.
        scores: (K,)
        step: eta, at least 0.

    Returns:
        (K,) float64.

    >>> discounted(torch.zeros(2), torch.tensor([1.0, 3.0]), 0.5).tolist()
    [0.5, -0.5]
    """
    return as_float64(log_weights) - step * (as_float64(scores) - as_float64(scores).mean())
