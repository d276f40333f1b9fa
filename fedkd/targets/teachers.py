"""What every target does first with its arguments: check them, and take the teachers as constants in float32 or better."""

from __future__ import annotations

import torch
from torch import Tensor


def constant(tensor: Tensor) -> Tensor:
    """Without its graph, and float32 where it was bfloat16 or float16.

    >>> constant(torch.zeros(2, dtype=torch.bfloat16)).dtype, constant(torch.zeros(2).double()).dtype
    (torch.float32, torch.float64)
    """
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def teacher_logits(function: str, logits: Tensor) -> Tensor:
    """The teachers' logits (K, B, C) as constants; the function's name is for the error.

    Raises:
        ValueError: logits of another number of dimensions, or of no teacher.

    >>> teacher_logits("mean_logits", torch.zeros(2, 3))
    Traceback (most recent call last):
    ValueError: mean_logits: logits are (K, B, C) of K >= 1 teachers, not (2, 3)
    """
    if logits.dim() != 3 or not len(logits):
        raise ValueError(f"{function}: logits are (K, B, C) of K >= 1 teachers, not {tuple(logits.shape)}")
    return constant(logits)


def teacher_probabilities(function: str, logits: Tensor, temperature: float) -> Tensor:
    """``softmax(logits / temperature)`` of the teachers' logits (K, B, C), constants.

    Raises:
        ValueError: as ``teacher_logits``, or the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"{function}: temperature {temperature} is not positive")
    return (teacher_logits(function, logits) / temperature).softmax(-1)


def label_losses(function: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Every teacher's cross-entropy on every sample: logits (K, B, C) and labels (B,) -> (K, B).

    Raises:
        ValueError: as ``teacher_logits``, or labels that are not one class a sample.

    >>> label_losses("lowest_loss", torch.tensor([[[0.0, 0.0]], [[0.0, 3.0]]]).log1p(), torch.tensor([1]))  # log 2, log(5/4)
    tensor([[0.6931],
            [0.2231]])
    """
    columns = label_columns(function, logits, labels)
    return -teacher_logits(function, logits).log_softmax(-1).gather(-1, columns).squeeze(-1)


def label_columns(function: str, logits: Tensor, labels: Tensor) -> Tensor:
    """The labels (B,) as an index (K, B, 1) into the classes of logits (K, B, C).

    Raises:
        ValueError: as ``teacher_logits``, or labels that are not one class a sample.
    """
    teachers, samples, classes = teacher_logits(function, logits).shape
    if labels.shape != (samples,) or labels.is_floating_point():
        raise ValueError(
            f"{function}: {samples} samples need integer labels ({samples},), not {tuple(labels.shape)} {labels.dtype}"
        )
    if bool(((labels < 0) | (labels >= classes)).any()):  # also where a sample has none, which other code writes as -1
        raise ValueError(f"{function}: labels are from 0 to {classes - 1}, not {labels.min().item()} to {labels.max().item()}")
    return labels.long().expand(teachers, -1)[..., None]
