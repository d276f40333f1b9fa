"""Messages of every kind, drawn from a seed: what a codec may be given."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from fedkd.base.randomness import generator
from fedkd.knowledge.codecs.planes import to_planes
from fedkd.knowledge.knowledge import Knowledge

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
ODD = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-40, 3e38]
SHAPES: list[tuple[int, ...]] = [
    *[(40, 12), (3, 5, 17), (8, 4, 3, 3), (300,), (2, 300), (1, 1), (64, 1)],
    *[(), (0,), (5,), (2, 0), (6, 6), (1, 4, 2)],
]
#: Some names look like those of parts.
NAMES = ["x", "x/scale", "conv.weight", "x/u", "x/absent", "x/classes", "deflate", "ü.0"]


def rng(seed: int) -> torch.Generator:
    """A generator of this seed."""
    return generator(seed, "messages")


def table(rows: int, classes: int, seed: int = 0) -> Tensor:
    """Distributions, some of them sharp: (rows, classes)."""
    return torch.randn(rows, classes, generator=rng(seed)).mul(3).softmax(-1)


def floating(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal float64."""
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


def with_odd_values(shape: tuple[int, ...], seed: int) -> Tensor:
    """Some of them are not finite, tiny or huge."""
    flat = floating(shape, seed).reshape(-1)
    flat[seed % 3 :: 5] = ODD[seed % len(ODD)]
    return flat.reshape(shape)


def distributions(shape: tuple[int, ...], seed: int) -> Tensor:
    """Rows over the last axis sum to one; every third is all zero, now and then."""
    rows = floating(shape, seed).mul(3).softmax(-1) if shape else torch.ones(())
    if seed % 2 and rows.ndim > 1:
        rows[seed % 3 :: 3] = 0
    return rows


def low_rank(shape: tuple[int, ...], seed: int) -> Tensor:
    """Of rank one where it has two axes."""
    if len(shape) < 2:
        return floating(shape, seed)
    rest = int(torch.Size(shape[1:]).numel())
    return (floating((shape[0], 1), seed) * floating((1, rest), seed + 1)).reshape(shape)


#: Space -> tensors of this space, of a shape and a seed.
VALUES: dict[str, list[Callable[[tuple[int, ...], int], Tensor]]] = {
    "weights": [floating, with_odd_values, low_rank],
    "embedding": [floating, low_rank],
    "logits": [floating, with_odd_values],
    "probabilities": [distributions],
    "counts": [floating],
}


def message(seed: int) -> Knowledge:
    """Any message; that of seed 0 is empty."""
    draw = random.Random(seed)
    tensors: dict[str, Tensor] = {}
    spaces: dict[str, str] = {}
    for name in draw.sample(NAMES, k=min(seed, draw.randrange(1, 5))):
        shape, of = draw.choice(SHAPES), draw.randrange(100)
        if draw.random() < 0.25:
            spaces[name] = draw.choice(["weights", "labels", "counts", "coded"])
            tensors[name] = torch.randint(0, 100, shape, generator=rng(of)).to(draw.choice(INTEGERS))
        else:
            spaces[name] = draw.choice(sorted(VALUES))
            tensors[name] = draw.choice(VALUES[spaces[name]])(shape, of).to(draw.choice(FLOATS))
    return Knowledge(tensors, spaces, {"round": 3, "hash": "", "share": 0.5}, weight=7, metrics={"loss": 0.5})


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Shape, dtype and every bit."""
    return (a.shape, a.dtype) == (b.shape, b.dtype) and torch.equal(to_planes(a), to_planes(b))


def forms(message: Knowledge) -> list[tuple[str, torch.Size, torch.dtype, str]]:
    """All of a message but its values, in order."""
    return [(name, t.shape, t.dtype, message.spaces[name]) for name, t in message.tensors.items()]
