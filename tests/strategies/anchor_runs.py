"""What the tests of methods with anchors share: the terms of a client's first step, and what it saw, without training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import fedkd.methods.encoders.own_encoders as own_encoders
from fedkd import Batch, Client, Knowledge

D = 256  # the width of a projection


def unit(seed: int, rows: int, width: int = D) -> Tensor:
    """Random unit rows."""
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=1, keepdim=True)


def anchors(rows: Tensor, **rest: Any) -> Knowledge:
    """A message of anchors."""
    return Knowledge.of("embedding", {"anchors": rows}, **rest)


def first_step(
    client: Client, broadcast: Knowledge, strategy: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, float], Batch]:
    """The parts of the loss of the first batch, and the batch; the net is in eval mode and learns nothing."""
    seen: list[Any] = []

    def look(net: Any, data: Any, loss: Callable[..., Mapping[str, Tensor]], **rest: Any) -> dict[str, float]:
        batch = next(data.batches(epochs=1, batch_size=8, rng=torch.Generator().manual_seed(0)))
        seen.extend([{name: part.item() for name, part in loss(net.eval(), batch).items()}, batch])
        return {}

    monkeypatch.setattr(own_encoders, "fit", look)
    strategy.client_update(client, broadcast)
    parts, batch = seen
    return parts, batch


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> float:
    rows, n = [*a, *b], len(a)
    total = 0.0
    for i, anchor in enumerate(rows):
        scores = {j: cosine(anchor, other) / temperature for j, other in enumerate(rows) if j != i}
        total += math.log(sum(map(math.exp, scores.values()))) - scores[(i + n) % (2 * n)]
    return total / (2 * n)


def relations(a: Tensor, others: Tensor, temperature: float) -> list[list[float]]:
    scores = [[math.exp(cosine(row, other) / temperature) for other in others] for row in a]
    return [[value / sum(row) for value in row] for row in scores]


def kl(p: list[float], q: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x)


def cross_relations(a: Tensor, b: Tensor, others: Tensor, temperature: float) -> float:
    """FedX's relational loss, the official code's: half of KL(m || a) + KL(m || b)."""
    total = 0.0
    for x, y in zip(relations(a, others, temperature), relations(b, others, temperature), strict=True):
        m = [(p + q) / 2 for p, q in zip(x, y, strict=True)]
        total += (kl(m, x) + kl(m, y)) / 2
    return total / len(a)
