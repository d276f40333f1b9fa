"""Knowledge of every kind for the codecs' tests, drawn by hypothesis."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from fedkd import Knowledge
from fedkd.knowledge.codecs import CODECS, FAMILIES, chain
from fedkd.knowledge.codecs.codec import Codec
from fedkd.knowledge.codecs.planes import to_planes

#: Every codec, by every name in the registry and some of each family.
NAMES = [*CODECS, "bits1", "bits2", "bits4", "bits11", "bits16", "bits32", "top1", "top3", "svd50"]
assert {name.rstrip("0123456789") for name in NAMES} >= set(FAMILIES), "add an example of the new family to NAMES"
LOSSLESS = [name for name in NAMES if chain([name])[0].lossless]
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
ODD = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-40, 3e38]


def one(name: str) -> Codec:
    return chain([name])[0]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(rows: int, classes: int, seed: int = 0) -> Tensor:
    """Distributions, some of them sharp: (rows, classes)."""
    return torch.randn(rows, classes, generator=rng(seed)).mul(3).softmax(-1)


def floating(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


def with_odd_values(shape: tuple[int, ...], seed: int) -> Tensor:
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
    if len(shape) < 2:
        return floating(shape, seed)
    rest = int(torch.Size(shape[1:]).numel())
    return (floating((shape[0], 1), seed) * floating((1, rest), seed + 1)).reshape(shape)


SHAPES = st.one_of(
    st.lists(st.integers(0, 6), max_size=4).map(tuple),
    st.sampled_from([(40, 12), (3, 5, 17), (8, 4, 3, 3), (300,), (2, 300), (1, 1), (64, 1)]),
)
VALUES = {
    "weights": [floating, with_odd_values, low_rank],
    "embedding": [floating, low_rank],
    "logits": [floating, with_odd_values],
    "probabilities": [distributions],
    "counts": [floating],
}


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, Tensor]:
    """A space, and a tensor of it."""
    shape, seed = draw(SHAPES), draw(st.integers(0, 99))
    if draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(["weights", "labels", "counts", "coded"])), torch.randint(
            0, 100, shape, generator=rng(seed)
        ).to(draw(st.sampled_from(INTEGERS)))
    space = draw(st.sampled_from(sorted(VALUES)))
    return space, draw(st.sampled_from(VALUES[space]))(shape, seed).to(draw(st.sampled_from(FLOATS)))


@st.composite
def knowledge(draw: st.DrawFn) -> Knowledge:
    """Any message, the empty one too. Some names look like those of parts."""
    drawn = draw(st.lists(tensors(), max_size=4))
    names = draw(st.permutations(["x", "x/scale", "conv.weight", "x/u", "x/absent", "x/classes", "deflate", "ü.0"]))
    held = dict(zip(names, drawn, strict=False))
    header = {"round": 3, "hash": "", "share": 0.5}
    return Knowledge(
        {n: t for n, (_, t) in held.items()}, {n: s for n, (s, _) in held.items()}, header, weight=7, metrics={"loss": 0.5}
    )


def same_bits(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype) and torch.equal(to_planes(a), to_planes(b))


def forms(message: Knowledge) -> list[tuple[str, torch.Size, torch.dtype, str]]:
    """All of a message but its values, in order."""
    return [(name, t.shape, t.dtype, message.spaces[name]) for name, t in message.tensors.items()]
