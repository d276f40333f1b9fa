"""How peers do, each for itself, together and against each other: pure functions of their logits on the same samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: So many samples are compared at a time: in float64, the logits of a hundred peers on a whole test set are gigabytes.
SAMPLES = 1024


def compared(logits: Tensor, labels: Tensor) -> dict[str, float | list[float]]:
    """What the metrics row says of K peers. One alone agrees or disagrees with nobody: it has neither of the last two.

    Args:
        logits: (K, M, C) of K >= 1 peers on the same M samples.
        labels: (M,); samples whose label is -1 do not count.

    Returns:
        ``peer_accuracies`` (K numbers), ``mean_peer_accuracy``, ``best_peer_accuracy``, ``ensemble_accuracy`` (fractions;
        NaN without samples), ``agreement`` (a fraction) and ``peer_divergence`` (nats).

    >>> found = compared(torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[3.0, 0.0], [0.0, 3.0]]]), torch.tensor([0, 1]))
    >>> found["peer_accuracies"], found["ensemble_accuracy"], found["agreement"]
    ([0.5, 1.0], 1.0, 0.5)
    """
    known = labels >= 0
    logits, labels = logits[:, known], labels[known]
    accuracies = peer_accuracies(logits, labels)
    row: dict[str, float | list[float]] = {
        "peer_accuracies": accuracies,
        "mean_peer_accuracy": sum(accuracies) / len(accuracies),
        "best_peer_accuracy": max(accuracies),
        "ensemble_accuracy": ensemble_accuracy(logits, labels),
    }
    return row | ({"agreement": agreement(logits), "peer_divergence": divergence(logits)} if len(logits) > 1 else {})


def peer_accuracies(logits: Tensor, labels: Tensor) -> list[float]:
    """The share of samples (M,) that each of K peers (K, M, C) gets right; NaN without samples."""
    right = (logits.argmax(-1) == labels).sum(1)  # (K,)
    return [_share(int(number), len(labels)) for number in right]


def ensemble_accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of samples (M,) that the mean of the peers' probabilities, of logits (K, M, C), gets right."""
    parts = zip(logits.split(SAMPLES, dim=1), labels.split(SAMPLES), strict=True)
    right = sum(int((part.double().softmax(-1).mean(0).argmax(-1) == truth).sum()) for part, truth in parts)
    return _share(right, len(labels))


def agreement(logits: Tensor) -> float:
    """The share of samples on which two peers name the same class, the mean over all pairs of K >= 2. (K, M, C) -> 0 to 1

    A class that n peers name is agreed on by n (n - 1) of the K (K - 1) ordered pairs: no loop over pairs.
    """
    peers, samples, classes = logits.shape
    answers = logits.argmax(-1).T  # (M, K)
    votes = torch.zeros(samples, classes, dtype=torch.int64, device=logits.device)
    votes.scatter_add_(1, answers, torch.ones_like(answers))  # (M, C)
    return _share(int((votes * (votes - 1)).sum()), peers * (peers - 1) * samples)


def divergence(logits: Tensor) -> float:
    """The KL divergence between two peers' probabilities, the mean over samples and ordered pairs of K >= 2, in nats::

        1 / (K (K - 1)) sum_i sum_j KL(p_i || p_j)

    Symmetric, as each pair counts in both orders. (K, M, C) -> at least 0
    """
    peers, samples, _ = logits.shape
    total = 0.0
    for part in logits.split(SAMPLES, dim=1):
        log_p = part.double().log_softmax(-1)  # (K, B, C)
        p = log_p.exp()
        # sum_ij p_i (log p_i - log p_j) = K sum_i p_i log p_i - (sum_i p_i) (sum_j log p_j)
        total += float(peers * (p * log_p).sum() - (p.sum(0) * log_p.sum(0)).sum())
    return _share(max(total, 0.0), peers * (peers - 1) * samples)


def _share(part: float, whole: int) -> float:
    return part / whole if whole else math.nan
