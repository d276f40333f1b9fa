"""Activation boundaries, AB: which neurons are on is taught, not how much. Heo et al. 2018, arXiv 1811.03233."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.base.errors import unknown
from fedkd.losses.spatial import maps_of_one_shape


def ab_loss(student: Tensor, teacher: Tensor, *, margin: float = 1.0, preset: str = "repdistiller") -> Tensor:
    """A squared hinge on each neuron before its ReLU: on where the teacher's is on, off where it is off::

        max(0, m - s)^2  where t > 0,    max(0, m + s)^2  where t <= 0

    The hinges are 0 where the student is on the teacher's side by the margin m, and are added up as libraries do::

        repdistiller    1/B * sum over all elements    as the authors' code, without its weights 3/1000 and 2^(i - n + 1)
        kd_zoo          mean over all elements         B * c * h * w terms, so c * h * w times smaller

    A positive scale of the teacher changes nothing. The gradient reaches the student only.

    Args:
        student: (B, c, h, w) maps before the ReLU, any float type; computed in float32 or better. Where its shape is another
            than the teacher's, a ``BoundaryConnector`` stands between.
        teacher: (B, c, h, w) before the ReLU, the same samples in the same order; a constant here.
        margin: m > 0.
        preset: "repdistiller" or "kd_zoo".

    Returns:
        () float32 or better, at least 0.

    Raises:
        ValueError: the maps differ in shape.
        InputError: an unknown preset.

    >>> student, teacher = torch.tensor([0.5, 3.0, 0.5, -2.0]), torch.tensor([7.0, 7.0, -7.0, -7.0])
    >>> student, teacher = student.view(1, 1, 2, 2), teacher.view(1, 1, 2, 2)
    >>> ab_loss(student, teacher).item(), ab_loss(student, teacher, preset="kd_zoo").item()  # 0.5^2 + 0 + 1.5^2 + 0
    (2.5, 0.625)
    """
    if preset not in PRESETS:
        raise unknown("ab_loss: preset", preset, PRESETS)
    cure = "bring the student's to the teacher's with a BoundaryConnector"
    s, t = maps_of_one_shape("ab_loss", student, teacher, cure=cure)
    toward_teacher = torch.where(t > 0, s, -s)  # how far each neuron is on the teacher's side
    return PRESETS[preset](F.relu(margin - toward_teacher).square())


def _mean_of_samples(hinges: Tensor) -> Tensor:
    """Sum over all but the batch, mean over it: (B, c, h, w) -> ()."""
    return hinges.sum() / len(hinges)


PRESETS: dict[str, Callable[[Tensor], Tensor]] = {"repdistiller": _mean_of_samples, "kd_zoo": torch.mean}
