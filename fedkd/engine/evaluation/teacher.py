"""How good a teacher is and whose knowledge is in it: pure functions of clients' answers on the same samples.

P samples, C classes, K clients. Probabilities are rows that sum to 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: How many equally wide bins of confidence the calibration error has, as in Guo et al. 2017, arXiv 1706.04599.
BINS = 15


def as_probabilities(table: Tensor, space: str, classes: int) -> Tensor:
    """Answers as distributions: of logits by softmax, of labels all on one class; a row of zeros is uniform.

    Args:
        table: (P, C) logits or probabilities, or (P,) labels.
        space: "logits", "probabilities" or "labels".
        classes: C.

    Returns:
        (P, C) float32.

    >>> as_probabilities(torch.tensor([[0.0, 0.0], [3.0, 1.0]]), "probabilities", 2).tolist()
    [[0.5, 0.5], [0.75, 0.25]]
    """
    if space == "labels":
        return torch.nn.functional.one_hot(table.long(), classes).float()
    if space == "logits":
        return table.float().softmax(1)
    bounded = table.float().clamp_min(0)
    sums = bounded.sum(1, keepdim=True)
    return torch.where(sums > 0, bounded / sums, 1 / classes)


def accuracy(answers: Tensor, labels: Tensor) -> float:
    """The share of samples (P,) with a label of at least 0 that answers, classes (P,), get right; NaN without any."""
    known = labels >= 0
    return _share(int((answers[known] == labels[known]).sum()), int(known.sum()))


def agreement(votes: Tensor, clients: int) -> float:
    """The share of samples on which two clients name the same class, the mean over all pairs; NaN for one client.

    Args:
        votes: (P, C), how many of the clients name each class.
        clients: K.

    >>> agreement(torch.tensor([[2, 1], [3, 0]]), 3)  # one pair of three agrees, then all three
    0.6666666666666666
    """
    return _share(int((votes * (votes - 1)).sum()), clients * (clients - 1) * len(votes))


def entropy(probabilities: Tensor) -> float:
    """The mean entropy of distributions (P, C), in nats."""
    return float(torch.special.entr(probabilities.double()).sum(1).mean())


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error: how far confidence and accuracy lie apart, the mean over bins weighted by their samples::

        sum_bins n_bin / n * |accuracy(bin) - confidence(bin)|

    Args:
        probabilities: (P, C); the confidence of a row is its largest entry.
        labels: (P,); rows whose label is -1 do not count.

    Returns:
        0 to 1; NaN without a labelled sample.

    >>> sure = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    >>> round(calibration_error(sure, torch.tensor([0, 1, 1])), 4)  # (2 * |1/2 - 0.9| + |1 - 0.6|) / 3
    0.4
    """
    known = labels >= 0
    confidence, answers = probabilities[known].double().max(1)
    right = (answers == labels[known]).double()
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, right - confidence)  # a bin's n times its difference
    return float(gaps.abs().sum() / len(right)) if len(right) else math.nan


def mass_by_class(probabilities: Tensor, targets: Tensor) -> Tensor:
    """What one client's answers put on the target's class, summed over the samples of each class.

    Args:
        probabilities: the client's, (P, C).
        targets: the class that the teacher names for each sample, (P,).

    Returns:
        (C,) float64.
    """
    on_target = probabilities.gather(1, targets[:, None])[:, 0].double()
    return torch.zeros(probabilities.shape[1], dtype=torch.float64).index_add_(0, targets, on_target)


def agreement_by_class(answers: Tensor, targets: Tensor, classes: int) -> Tensor:
    """The share of the samples of each target class for which an answer names it. (P,), (P,) -> (C,), NaN without samples."""
    counts = torch.bincount(targets, minlength=classes).double()
    return torch.bincount(targets[answers == targets], minlength=classes).double() / counts


def _share(part: float, whole: int) -> float:
    return part / whole if whole else math.nan
