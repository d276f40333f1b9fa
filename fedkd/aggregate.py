"""Reductions over uploads: pure functions, uploads in order of client id, weights that sum to one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedkd.knowledge import Knowledge


def weighted_mean(uploads: Mapping[int, Knowledge]) -> Knowledge:
    """The mean of uploads, each weighted by its ``weight`` over the sum of the participants' weights.

    Floating tensors (BatchNorm's running statistics too) are summed in float64 and cast back, so the mean of equal uploads is
    that upload, bit for bit. Integer tensors (BatchNorm's counters) have no mean: the largest is taken.

    Raises:
        ValueError: there are no uploads, or they do not hold the same names in the same spaces.
    """
    if not uploads:
        raise ValueError("the mean of no uploads is undefined")
    first = next(iter(uploads.values()))
    for client, upload in uploads.items():
        if upload.spaces != first.spaces:
            raise ValueError(f"client {client} sent other tensors or spaces than the first: they cannot be averaged")
    total = sum(upload.weight for upload in uploads.values())
    weights = [upload.weight / total for upload in uploads.values()]
    means = {name: _mean([u.tensors[name] for u in uploads.values()], weights) for name in first.tensors}
    return Knowledge(means, first.spaces, {k: v for k, v in first.header.items() if k not in ("round", "exchange")})


def _mean(tensors: list[Tensor], weights: list[float]) -> Tensor:
    if not tensors[0].is_floating_point():
        return torch.stack(tensors).amax(0)
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor, alpha=weight)
    return total.to(tensors[0].dtype)
