"""Knowledge of every kind for the codecs' tests, drawn by hypothesis."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from fedkd import Knowledge
from fedkd.knowledge.codecs import CODECS, FAMILIES, chain
from fedkd.knowledge.codecs.codec import Codec
from fedkd.testing.messages import FLOATS, INTEGERS, VALUES, rng
from fedkd.testing.messages import NAMES as TENSORS

#: Every codec, by every name in the registry and some of each family.
NAMES = [*CODECS, "bits1", "bits2", "bits4", "bits11", "bits16", "bits32", "top1", "top3", "svd50"]
assert {name.rstrip("0123456789") for name in NAMES} >= set(FAMILIES), "add an example of the new family to NAMES"
LOSSLESS = [name for name in NAMES if chain([name])[0].lossless]


def one(name: str) -> Codec:
    return chain([name])[0]


SHAPES = st.one_of(
    st.lists(st.integers(0, 6), max_size=4).map(tuple),
    st.sampled_from([(40, 12), (3, 5, 17), (8, 4, 3, 3), (300,), (2, 300), (1, 1), (64, 1)]),
)


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
    names = draw(st.permutations(TENSORS))
    held = dict(zip(names, drawn, strict=False))
    header = {"round": 3, "hash": "", "share": 0.5}
    return Knowledge(
        {n: t for n, (_, t) in held.items()}, {n: s for n, (s, _) in held.items()}, header, weight=7, metrics={"loss": 0.5}
    )
