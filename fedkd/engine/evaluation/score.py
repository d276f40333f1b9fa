"""Right answers, counted by class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Score:
    """Right answers by class. ``accuracy`` is a fraction; NaN where there was nothing to answer."""

    correct: Tensor  # (C,)
    samples: Tensor  # (C,)

    @property
    def accuracy(self) -> float:
        """Right answers over all answers."""
        return float(self.correct.sum() / self.samples.sum()) if self.samples.sum() else math.nan


def score(answers: Tensor, labels: Tensor, classes: int) -> Score:
    """Count right answers (M,) against labels (M,) by class; labels of -1 do not count."""
    known = labels >= 0
    samples = torch.bincount(labels[known], minlength=classes)
    correct = torch.bincount(labels[known & (answers == labels)], minlength=classes)
    return Score(correct, samples)
