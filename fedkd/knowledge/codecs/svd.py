"""Low-rank factors on the wire: what FedKD does to updates, for any floating tensor of two or more axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from fedkd.knowledge.codecs.codec import Codec
from fedkd.knowledge.codecs.lowrank import FACTORS, factorise, from_factors
from fedkd.knowledge.codecs.notes import Form
from fedkd.knowledge.codecs.parts import Parts, join, split
from fedkd.knowledge.knowledge import Knowledge

SPACES = ("weights", "embedding", "logits")


@final
@dataclass(frozen=True)
class Svd(Codec):
    """Floating tensors, flattened to (first axis, rest), travel as U, s and V of the smallest rank over so much of the energy.

    Weights, embeddings and logits only: probabilities and counts would come back below zero. The paper's schedule of the
    energy, and its coding of updates instead of weights, are the strategy's business: see ``fedkd.knowledge.codecs.lowrank``,
    which also says what travels whole.
    """

    percent: int = 95

    def __post_init__(self) -> None:
        if not 1 <= self.percent <= 99:
            raise ValueError("svd takes the energy to keep in percent, 1 to 99")

    @property
    def _key(self) -> str:
        return f"codec.svd{self.percent}"

    def encode(self, knowledge: Knowledge, base: Knowledge | None) -> Knowledge:
        """Factorise."""
        return split(knowledge, self._key, FACTORS, self._factorise)

    def decode(self, message: Knowledge, base: Knowledge | None, max_bytes: int) -> Knowledge:
        """Multiply the factors."""
        return join(message, self._key, FACTORS, self._multiply, max_bytes)

    def _factorise(self, tensor: Tensor, space: str) -> Parts | None:
        factors = factorise(tensor, self.percent / 100) if space in SPACES else None
        return dict(zip(FACTORS, factors, strict=True)) if factors else None

    def _multiply(self, parts: Parts, form: Form) -> Tensor:
        if parts.keys() != set(FACTORS) or parts[FACTORS[0]].dtype != form.dtype:
            raise ValueError(f"{self._key}: a coded tensor lacks a factor, or its factors are of another dtype")
        return from_factors(*(parts[suffix] for suffix in FACTORS), shape=form.shape)
