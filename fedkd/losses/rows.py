"""Embeddings and feature maps as rows, one a sample: what losses on relations between the samples of a batch read."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.losses.precision import at_least_float32


def flat_rows(name: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both as rows (B, D) in float32 or better; they may differ in width. ``name`` is the loss that asks.

    >>> rows, _ = flat_rows("example", torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16), torch.zeros(2, 5))
    >>> rows.shape, rows.dtype
    (torch.Size([2, 48]), torch.float32)
    """
    if student.ndim < 2 or teacher.ndim < 2 or len(student) != len(teacher):
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"{name}: student and teacher are (B, D) or (B, c, h, w) of one batch B, not {shapes}")
    return at_least_float32(student).flatten(1), at_least_float32(teacher).flatten(1)


def unit_rows(rows: Tensor, *, order: float = 2.0) -> Tensor:
    """Every vector along the last axis divided by its length, the norm of that order; a zero vector stays zero.

    A zero vector has no direction and gets no gradient; one through the clamped length would be 1e12 times too large.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    True
    """
    length: Tensor = torch.linalg.vector_norm(rows, ord=order, dim=-1, keepdim=True)
    return torch.where(length > 0, rows, 0.0) / length.clamp(min=1e-12)
