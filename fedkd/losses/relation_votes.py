"""Relations between samples by the majority of several teachers: You et al., KDD 2017."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32
from fedkd.losses.shapes import require_shape


def relation_vote_loss(student: Tensor, teachers: Sequence[Tensor], triplets: Tensor, *, margin: float = 0.3) -> Tensor:
    """Which of two samples lies nearer to a third is voted on by the teachers, and learned by the student::

        d(i, j) = ||f_i / |f_i| - f_j / |f_j| ||^2
        vote of teacher t on (i, j, k): +1 if d_t(i, j) < d_t(i, k), -1 if it is greater, else 0;   s = sign of their sum
        loss = mean over triplets with s != 0 of max(0, margin + s (d(i, j) - d(i, k)))

    Only the order counts, so teachers of any width and scale can vote. Triplets without a majority teach nothing. The gradient
    reaches the student only. The paper gives no numbers for the margin; its own triplets are drawn anew each step.

    Args:
        student: (B, D) features, any float type; computed in float32 or better.
        teachers: K tensors (B, D_k), of the same samples in the same order; constants here.
        triplets: (R, 3) int64, positions i, j, k in the batch.
        margin: >= 0, in squared distances between vectors of length 1, which lie in 0 .. 4.

    Returns:
        () float32 or better, at least 0; 0 where no triplet has a majority.

    Raises:
        ValueError: no teachers, other batch sizes, or triplets of another shape.

    >>> east, north, west = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    >>> student, teacher = torch.tensor([east, west, north]), torch.tensor([east, north, west])
    >>> loss = relation_vote_loss(student, [teacher], torch.tensor([[0, 1, 2]]))  # 0.3 + 4 - 2: told that 1 is nearer
    >>> round(loss.item(), 4)
    2.3
    """
    require_shape("relation_vote_loss: student", student, "B", "D")
    require_shape("relation_vote_loss: triplets", triplets, "R", 3)
    if not teachers:
        raise ValueError("relation_vote_loss: there are no teachers to vote")
    for number, teacher in enumerate(teachers):
        require_shape(f"relation_vote_loss: teacher {number}", teacher, len(student), "D")
    votes = torch.stack([_difference(teacher.detach(), triplets).sign() for teacher in teachers])  # (K, R)
    sign = -votes.sum(0).sign()  # (R,): +1 where j is to be the nearer one
    terms = F.relu(margin + sign * _difference(student, triplets)) * sign.abs()  # (R,)
    return terms.sum() / sign.abs().sum().clamp_min(1)


def _difference(features: Tensor, triplets: Tensor) -> Tensor:
    """d(i, j) - d(i, k) of each triplet: (B, D), (R, 3) -> (R,)."""
    unit = F.normalize(at_least_float32(features), dim=1)
    i, j, k = (unit[column] for column in triplets.unbind(1))  # (R, D) each
    return (i - j).square().sum(1) - (i - k).square().sum(1)


def draw_triplets(samples: int, rng: torch.Generator) -> Tensor:
    """A triplet of different positions for every sample as its first: (B, 3) int64; none (0, 3) of fewer than three samples.

    >>> draw_triplets(2, torch.Generator()).shape
    torch.Size([0, 3])
    """
    if samples < 3:
        return torch.empty(0, 3, dtype=torch.int64)
    first = torch.arange(samples)
    near = torch.randint(1, samples, (samples,), generator=rng)  # steps from i to j, 1 .. B - 1
    far = torch.randint(1, samples - 1, (samples,), generator=rng)
    far += (far >= near).long()  # another step than j's
    return torch.stack([first, (first + near) % samples, (first + far) % samples], dim=1)
