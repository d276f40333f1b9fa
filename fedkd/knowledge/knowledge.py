"""Knowledge: what clients and the server tell each other. Tensors with a name and a meaning, a few facts, a weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

#: What a tensor means. Aggregation never mixes two spaces: the mean of logits is not the mean of probabilities.
SPACES = ("weights", "logits", "probabilities", "labels", "embedding", "counts", "samples", "coded")
_SPACES = frozenset(SPACES)
#: The dtypes that travel, by name.
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
#: No weight, logit or feature of a net that trains is larger.
MAX_MAGNITUDE = 1e6


@dataclass(frozen=True, eq=False)
class Knowledge:
    """One message between a client and the server, engine and network aside.

    Attributes:
        tensors: name -> tensor, any dtype and shape. Detached here, so a Knowledge cannot carry a graph.
        spaces: name -> one of ``SPACES``, for every tensor.
        header: facts that travel beside the tensors (architecture, public-set hash, class ids as text ...).
        weight: how much the sender counts in a weighted mean, e.g. its number of training samples.
        metrics: numbers to report, never to compute with (losses by part).
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    spaces: Mapping[str, str] = field(default_factory=dict)
    header: Mapping[str, str | int | float] = field(default_factory=dict)
    weight: float = 1.0
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tensors.keys() != self.spaces.keys():
            odd = sorted(self.tensors.keys() ^ self.spaces.keys())[:3]
            raise ValueError(f"every tensor needs one space: {odd} stand in only one of tensors and spaces")
        if not _SPACES.issuperset(self.spaces.values()):
            unknown = set(self.spaces.values()) - _SPACES
            raise ValueError(f"unknown space {sorted(unknown)[0]!r}: use one of {', '.join(SPACES)}")
        tensors = {name: tensor.detach() if tensor.requires_grad else tensor for name, tensor in self.tensors.items()}
        vars(self).update(
            tensors=MappingProxyType(tensors),
            spaces=MappingProxyType(dict(self.spaces)),
            header=MappingProxyType(dict(self.header)),
            metrics=MappingProxyType(dict(self.metrics)),
        )

    @classmethod
    def of(cls, space: str, tensors: Mapping[str, Tensor], **rest: Any) -> Knowledge:
        """Knowledge whose tensors all lie in one space: ``Knowledge.of("weights", net.state_dict(), weight=64)``."""
        return cls(tensors, dict.fromkeys(tensors, space), **rest)

    @property
    def raw_bytes(self) -> int:
        """Bytes of the tensors' elements, as papers count them: no names, no headers."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def copy(self) -> Knowledge:
        """The same with tensors of its own: those of a net change when it is trained on."""
        return replace(self, tensors={name: tensor.clone() for name, tensor in self.tensors.items()})

    def by_name(self) -> dict[str, tuple[str, Tensor]]:
        """Name -> space and tensor."""
        return {name: (self.spaces[name], tensor) for name, tensor in self.tensors.items()}

    def in_space(self, space: str) -> Knowledge:
        """Its tensors of one space alone, and how much they count."""
        tensors = {name: tensor for name, tensor in self.tensors.items() if self.spaces[name] == space}
        return Knowledge.of(space, tensors, weight=self.weight)

    def with_header(self, **facts: str | int | float) -> Knowledge:
        """The same Knowledge with these facts added to its header."""
        return replace(self, header={**self.header, **facts})

    def beside(self, other: Knowledge) -> Knowledge:
        """The same Knowledge with another's tensors beside its own, each in its space."""
        return replace(self, tensors={**self.tensors, **other.tensors}, spaces={**self.spaces, **other.spaces})

    def with_tensors(self, space: str, tensors: Mapping[str, Tensor]) -> Knowledge:
        """The same Knowledge with these tensors beside its own."""
        spaces = {**self.spaces, **dict.fromkeys(tensors, space)}
        return replace(self, tensors={**self.tensors, **tensors}, spaces=spaces)


@dataclass(frozen=True)
class UpTo:
    """A side of a tensor that the sender chooses: at most ``most``, and the same wherever ``name`` stands in one upload."""

    name: str
    most: int


@dataclass(frozen=True)
class TensorSpec:
    """What one tensor of an upload must be: shape, dtype and space; whether it may be left out; its least value, if any.

    ``own`` is the tensor as the server has it. What is not finite, or very large, in it is so by design, as a mask of minus
    infinities, and legal there.
    """

    shape: tuple[int | UpTo, ...]
    dtype: torch.dtype
    space: str
    optional: bool = False
    low: float | None = None
    own: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def raw_bytes(self) -> int:
        """Bytes of the elements of such a tensor, at most."""
        sides = (side.most if isinstance(side, UpTo) else side for side in self.shape)
        return math.prod(sides) * self.dtype.itemsize


#: Buffers of torch's normalisation layers that are never negative, by the end of their name.
NEVER_NEGATIVE = ("running_var", "num_batches_tracked")


def schema_of(knowledge: Knowledge) -> dict[str, TensorSpec]:
    """The schema that this very Knowledge fulfils: name -> TensorSpec. Variances and counts of BatchNorm stay at least 0."""
    return {
        name: TensorSpec(
            tuple(tensor.shape), tensor.dtype, knowledge.spaces[name], low=_low(name, knowledge.spaces[name]), own=tensor
        )
        for name, tensor in knowledge.tensors.items()
    }


def _low(name: str, space: str) -> float | None:
    return 0.0 if space == "weights" and name.endswith(NEVER_NEGATIVE) else None
