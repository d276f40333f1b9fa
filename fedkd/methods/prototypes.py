"""Prototypes: points in a feature space that stand for classes, as they travel, and as what a server trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar, final

import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import Batch, Split, fit, predict
from fedkd.knowledge.knowledge import Knowledge, TensorSpec, UpTo
from fedkd.methods.class_means import ClassMeans
from fedkd.methods.made_rows import rows_split
from fedkd.nets import Net

M = TypeVar("M", bound=nn.Module)


@final
@dataclass(frozen=True, eq=False)
class Prototypes:
    """Points of all classes, and of how many samples or owners each is the mean; 0 where the class is unknown.

    >>> held = Prototypes(torch.tensor([[1.0, 4.0], [0.0, 0.0], [5.0, 4.0]]), torch.tensor([10, 0, 3]))
    >>> packed = held.to_knowledge()
    >>> {name: tensor.tolist() for name, tensor in packed.tensors.items()}
    {'prototypes': [[1.0, 4.0], [5.0, 4.0]], 'class_ids': [0, 2], 'counts': [10, 3]}
    >>> Prototypes.of(packed, classes=3).nearest(torch.tensor([[1.0, 1.0]])).tolist()
    [[-3.0, -inf, -5.0]]
    """

    values: Tensor  # (C, D) float32; rows of unknown classes may hold anything
    counts: Tensor  # (C,) any integer type

    @classmethod
    def of(cls, knowledge: Knowledge, *, classes: int, device: torch.device | None = None) -> Self:
        """What ``to_knowledge`` packed, a row for each of so many classes again."""
        rows, ids = (
            knowledge.tensors["prototypes"].to(device),
            knowledge.tensors["class_ids"].long().to(device),
        )  # (M, D), (M,)
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


def own_prototypes(net: Net, data: Split, *, classes: int) -> Prototypes:
    """The mean feature of each class of labelled samples, by a trained net in eval mode: one pass over all of them."""
    means = ClassMeans(classes=classes, width=net.feature_width)
    means.add(predict(net.eval().features, data.samples, data.work), data.samples.labels[data.samples.indices])
    return Prototypes(means.values(), means.counts())


def stacked_prototypes(uploads: Mapping[int, Knowledge], *, classes: int) -> tuple[Tensor, Tensor]:
    """Every client's prototypes (K, C, D), clients in order of their id, and of how many samples each is the mean (K, C)."""
    held = [Prototypes.of(upload, classes=classes) for _, upload in sorted(uploads.items())]
    return torch.stack([each.values for each in held]), torch.stack([each.counts for each in held])


def fit_on_prototypes(
    server: Server,
    module: M,
    uploads: Mapping[int, Knowledge],
    loss: Callable[[M, Tensor, Tensor], Tensor],
    *,
    part: str,
    optimizer: torch.optim.Optimizer,
    epochs: int,
) -> None:
    """Train at the server on uploaded prototypes: each is one sample, so a client counts as often as it holds classes.

    Args:
        server: whose samples they become, train.batch_size in a step.
        module: what is trained.
        uploads: by client id, as ``Prototypes.to_knowledge`` makes them.
        loss: of the module, rows (B, D) and their class ids (B,).
        part: the name of the loss; its mean is reported as "server_<part>".
        optimizer: of what in the module is to be trained.
        epochs: over all that was uploaded.
    """
    values, counts = stacked_prototypes(uploads, classes=server.classes)  # (K, C, D), (K, C)
    rows, (_, labels) = values[counts > 0], (counts > 0).nonzero(as_tuple=True)  # (M, D), (M,)

    def on_batch(module: M, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(batch.inputs, Tensor)
        return {part: loss(module, batch.inputs, batch.labels)}

    losses = fit(module, rows_split(server, rows, labels), on_batch, optimizer=optimizer, epochs=epochs)
    server.report({part: losses[part]})


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


def common_width(node: Node, *beside: str, what: str = "prototypes") -> int:
    """D, the width of the features of all clients' nets, and of architectures ``beside`` them.

    Raises InputError where they differ or a net has no features.
    """
    names = dict.fromkeys((*beside, *node.experiment.architectures))
    widths = {name: node.net(name, architecture=name).feature_width for name in names}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise InputError(f"nets: {what} need features of one width, these have {listed}: make them equal in net_options")
    return next(iter(widths.values()))
