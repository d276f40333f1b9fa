"""A case: what fedkd computes, what somebody's code computes of the same tensors, and how far they are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest.mock import patch

import torch
from official.copies import Copy
from torch import Tensor, nn

SEEDS = (0, 1, 2, 3, 4)


class Drawn:
    """Tensors of a seed, each a normal draw in float64; the same whatever was asked for before."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.learned: dict[str, Tensor] = {}

    def normal(self, name: str, *shape: int, scale: float = 1.0) -> Tensor:
        """A tensor by its name; of those in ``learned`` the leaf whose gradient is compared."""
        if name in self.learned:
            return self.learned[name]
        rng = torch.Generator().manual_seed(1000 * self.seed + sum(map(ord, name)))
        return scale * torch.randn(*shape, generator=rng, dtype=torch.float64)

    def learn(self, *names: str) -> None:
        """Make leaves of these."""
        for name in names:
            self.learned[name] = getattr(self, name).detach().clone().requires_grad_()

    @cached_property
    def labels(self) -> Tensor:
        """(16,) of ten classes, each at least once, most twice."""
        rng = torch.Generator().manual_seed(self.seed)
        return torch.cat([torch.arange(8), torch.arange(8)])[torch.randperm(16, generator=rng)]

    @cached_property
    def ids(self) -> Tensor:
        """(16,) of 40 samples, each once."""
        return torch.randperm(40, generator=torch.Generator().manual_seed(self.seed))[:16]

    s = property(lambda self: self.normal("s", 16, 10, scale=3.0), doc="a student's logits (16, 10)")
    t = property(lambda self: self.normal("t", 16, 10, scale=3.0), doc="a teacher's (16, 10)")
    u = property(lambda self: self.normal("u", 16, 10, scale=3.0), doc="another teacher's (16, 10)")
    wide_s = property(lambda self: self.normal("wide_s", 16, 1000, scale=3.0), doc="logits of 1000 classes (16, 1000)")
    wide_t = property(lambda self: self.normal("wide_t", 16, 1000, scale=3.0), doc="a teacher's (16, 1000)")
    es = property(lambda self: self.normal("es", 16, 12), doc="a student's embeddings (16, 12)")
    et = property(lambda self: self.normal("et", 16, 12), doc="a teacher's (16, 12)")
    anchors = property(lambda self: self.normal("anchors", 20, 12), doc="other samples' (20, 12)")
    predicted = property(lambda self: self.normal("predicted", 52, 12), doc="after a head, of 16 + 16 + 20 (52, 12)")
    taught = property(lambda self: self.normal("taught", 36, 12), doc="a teacher's, of 16 + 20 (36, 12)")
    ms = property(lambda self: self.normal("ms", 16, 6, 8, 8), doc="a student's maps (16, 6, 8, 8)")
    mt = property(lambda self: self.normal("mt", 16, 6, 8, 8), doc="a teacher's (16, 6, 8, 8)")
    small_mt = property(lambda self: self.normal("small_mt", 16, 6, 4, 4), doc="a teacher's (16, 6, 4, 4)")
    deep_ms = property(lambda self: self.normal("deep_ms", 16, 9, 4, 4), doc="a student's next maps (16, 9, 4, 4)")
    deep_mt = property(lambda self: self.normal("deep_mt", 16, 9, 4, 4), doc="a teacher's (16, 9, 4, 4)")
    points = property(lambda self: self.normal("points", 10, 12), doc="a prototype a class (10, 12)")


@dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        name: what fedkd calls it: a loss, a target or a strategy.
        code: owner/name of the code it is compared with.
        where: file and definition or lines there, for a reader.
        theirs: their number, or tensor, of the copy and the drawn tensors.
        ours: fedkd's.
        learned: by which tensors the gradient is compared, too.
        what: what is compared, where it is not the whole: "preset kd_lib", "loss of a step".
        because: why they differ, where they do.
    """

    name: str
    code: str
    where: str
    theirs: Callable[[Copy, Drawn], Tensor]
    ours: Callable[[Drawn], Tensor]
    learned: str = ""
    what: str = ""
    because: str = ""

    def compare(self, copy: Copy) -> dict[str, Any]:
        """A line of the results: both numbers for each seed, and the largest difference of numbers and of gradients."""
        there, here, values, gradients = [], [], [0.0], [0.0]
        for seed in SEEDS:
            (value, slope), (own, own_slope) = (
                _computed(side, seed, self.learned) for side in (lambda d: self.theirs(copy, d), self.ours)
            )
            there.append(_as_number(value))
            here.append(_as_number(own))
            values.append(_apart(own, value))
            gradients += [_apart(a, b) for a, b in zip(own_slope, slope, strict=True)]
        return {
            "name": self.name,
            "code": self.code,
            "commit": copy.commit,
            "where": self.where,
            "what": self.what,
            "seeds": list(SEEDS),
            "there": there,
            "here": here,
            "difference": max(values),
            **({"gradient_difference": max(gradients)} if self.learned else {}),
            **({"because": self.because} if self.because else {}),
        }


def _computed(function: Callable[[Drawn], Tensor], seed: int, learned: str) -> tuple[Tensor, list[Tensor]]:
    drawn = Drawn(seed)
    drawn.learn(*learned.split())
    torch.manual_seed(seed)
    with _on_the_cpu():
        value = function(drawn)
        leaves = [drawn.learned[name] for name in learned.split()]
        slopes = torch.autograd.grad(value.sum(), leaves, allow_unused=True) if leaves else ()
    return value.detach(), [torch.zeros_like(leaf) if s is None else s for leaf, s in zip(leaves, slopes, strict=True)]


def _as_number(value: Tensor) -> float:
    """A scalar as it is; of a table the sum of its numbers, each times a sine, so that none cancels another."""
    flat = value.double().flatten()
    return float(flat if len(flat) == 1 else (flat * torch.arange(1, len(flat) + 1, dtype=torch.float64).sin()).sum())


def _apart(own: Tensor, other: Tensor) -> float:
    """The largest difference over the largest number of either, so between 0 and 2."""
    own, other = own.double().flatten(), other.double().flatten()
    return float((own - other).abs().max() / torch.cat([own, other]).abs().max().clamp_min(1e-300))


@contextmanager
def _on_the_cpu() -> Iterator[None]:
    """Their ``cuda()`` does nothing, and what they make without a type is float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(Tensor, "cuda", lambda self, *_, **__: self), patch.object(nn.Module, "cuda", lambda self: self):
            yield
    finally:
        torch.set_default_dtype(before)
