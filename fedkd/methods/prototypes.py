"""Prototypes: one point of the feature space for each class. A message holds those of the classes that its sender knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.node import Node
from fedkd.knowledge.knowledge import Knowledge, TensorSpec, UpTo
from fedkd.nets import Encoder


@final
@dataclass(frozen=True, eq=False)
class Prototypes:
    """Points of all classes, and of how many samples or owners each is the mean; 0 where the class is unknown.

    >>> held = Prototypes(torch.tensor([[1.0, 4.0], [0.0, 0.0], [5.0, 4.0]]), torch.tensor([10, 0, 3]))
    >>> said = held.to_knowledge()
    >>> {name: tensor.tolist() for name, tensor in said.tensors.items()}
    {'prototypes': [[1.0, 4.0], [5.0, 4.0]], 'class_ids': [0, 2], 'counts': [10, 3]}
    >>> Prototypes.of(said, classes=3).nearest(torch.tensor([[1.0, 1.0]])).tolist()
    [[-3.0, -inf, -5.0]]
    """

    values: Tensor  # (C, D) float32; rows of unknown classes may hold anything
    counts: Tensor  # (C,) any integer type

    @classmethod
    def of(cls, knowledge: Knowledge, *, classes: int, device: torch.device | None = None) -> Self:
        """What ``to_knowledge`` packed, a row for each of so many classes again."""
        rows, ids = knowledge.tensors["prototypes"].to(device), knowledge.tensors["class_ids"].long().to(device)  # (M, D), (M,)
        values = rows.new_zeros(classes, rows.shape[1]).index_copy(0, ids, rows)  # (C, D)
        counts = knowledge.tensors["counts"].to(device)
        return cls(values, counts.new_zeros(classes).index_copy(0, ids, counts))

    @property
    def known(self) -> Tensor:
        """Whether a class has a prototype. (C,) bool"""
        return self.counts > 0

    def to_knowledge(self, **rest: Any) -> Knowledge:
        """The known classes only, M (4 D + 8) bytes for M of them; ``rest``: weight and metrics."""
        ids = self.known.nonzero().squeeze(1)  # (M,)
        tensors = {"prototypes": self.values[ids], "class_ids": ids.int(), "counts": self.counts[ids].int()}
        return Knowledge(tensors, {"prototypes": "embedding", "class_ids": "labels", "counts": "counts"}, **rest)

    def nearest(self, features: Tensor) -> Tensor:
        """Scores (B, C) of features (B, D): the negative Euclidean distance, minus infinity for an unknown class."""
        distances = torch.cdist(features.float(), self.values)  # (B, C)
        return (-distances).masked_fill(~self.known, -torch.inf)


def prototype_schema(*, classes: int, width: int) -> Mapping[str, TensorSpec]:
    """What an upload of prototypes of this width holds: as many classes as the client chooses."""
    held = UpTo("classes", classes)
    return {
        "prototypes": TensorSpec((held, width), torch.float32, "embedding"),
        "class_ids": TensorSpec((held,), torch.int32, "labels"),
        "counts": TensorSpec((held,), torch.int32, "counts"),
    }


def check_prototypes(upload: Knowledge) -> None:
    """Raise ValueError unless each class stands once, with samples, and these are as many as the upload weighs."""
    ids, counts = upload.tensors["class_ids"], upload.tensors["counts"]
    if len(ids.unique()) < len(ids):
        raise ValueError("it names a class twice")
    if bool((counts < 1).any()):
        raise ValueError("it names a class of which it has no sample")
    if (samples := int(counts.sum())) != upload.weight:
        raise ValueError(f"its classes have {samples} samples, its weight is {upload.weight:g}")


def common_width(node: Node) -> int:
    """D, the width of the features of all clients' nets. Raises InputError where they differ or a net has no features."""
    widths: dict[str, int] = {}
    for name in node.experiment.architectures:
        encoder = node.net(name, architecture=name).encoder
        if not isinstance(encoder, Encoder):
            raise InputError(f"net {name!r} gives logits only: subclass fedkd.nets.Encoder for features")
        widths[name] = encoder.out_features
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise InputError(f"nets: prototypes need features of one width, these have {found}: make them equal in net_options")
    return next(iter(widths.values()))
