"""The weighted mean of whole uploads: what averages weights, buffers included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedkd.knowledge.knowledge import Knowledge


def weighted_mean(uploads: Mapping[int, Knowledge], *, weights: Sequence[float] | None = None) -> Knowledge:
    """The mean of uploads, each weighted by its ``weight`` over the sum of the participants' weights.

    Floating tensors (BatchNorm's running statistics too) are summed in float64 and cast back, so the mean of equal uploads is
    that upload, bit for bit. Integer tensors (BatchNorm's counters) have no mean: the largest is taken.

    Args:
        uploads: by client id.
        weights: one a client, in order of client id, instead of the uploads' own: ``[1] * K`` is the uniform mean.

    Raises:
        ValueError: there are no uploads, or they do not hold the same names in the same spaces; weights that are not one a
            client, or negative, or sum to nothing.

    >>> uploads = {k: Knowledge.of("weights", {"w": torch.tensor(float(k))}, weight=3 - k) for k in (0, 2)}
    >>> weighted_mean(uploads).tensors["w"], weighted_mean(uploads, weights=[1, 1]).tensors["w"]  # weights 3 and 1, then equal
    (tensor(0.5000), tensor(1.))
    """
    if not uploads:
        raise ValueError("the mean of no uploads is undefined")
    clients = sorted(uploads)
    first = uploads[clients[0]]
    for client in clients:
        if uploads[client].spaces != first.spaces:
            raise ValueError(f"client {client} sent other tensors or spaces than the first: they cannot be averaged")
    shares = _shares([uploads[client].weight for client in clients] if weights is None else weights, len(clients))
    means = {name: _mean([uploads[client].tensors[name] for client in clients], shares) for name in first.tensors}
    return Knowledge(means, first.spaces, {k: v for k, v in first.header.items() if k not in ("round", "exchange")})


def _shares(weights: Sequence[float], clients: int) -> list[float]:
    """The weights over their sum."""
    total = sum(weights)
    if len(weights) != clients or min(weights, default=0) < 0 or not total > 0:
        given = f"{len(weights)} weights, the least {min(weights, default=0)}, sum {total}"
        raise ValueError(f"weighted_mean: {clients} clients need a weight >= 0 each, not all 0, and have {given}")
    return [weight / total for weight in weights]


def _mean(tensors: list[Tensor], shares: list[float]) -> Tensor:
    if not tensors[0].is_floating_point():
        return torch.stack(tensors).amax(0)
    if all(torch.equal(tensor, tensors[0]) for tensor in tensors[1:]):  # frozen, or a mask: rounding would move float64
        return tensors[0].clone()
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor, share in zip(tensors, shares, strict=True):
        if share:  # nothing of infinity is not a number
            total.add_(tensor, alpha=share)
    return total.to(tensors[0].dtype)
