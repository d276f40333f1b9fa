"""Distillation over public samples: every node predicts the same ones, and learns from the others' predictions.

The rows of a table are for the samples of one split, in its order, un-augmented; ``distil`` looks them up by
a sample's place in the split, so no shuffling can take a row to another sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from fedkd.aggregate import renormalise, stack
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.train import Batch, Split, fit, predict
from fedkd.knowledge.knowledge import Knowledge

#: A loss between a student's logits (B, C) and its teachers' predictions of the same samples (B, C).
DistillationLoss = Callable[[Tensor, Tensor], Tensor]


def predict_public(net: nn.Module, subset: Split) -> Tensor:
    """The net's logits of these samples, in eval mode and in their order. (P, C) float32 on the CPU."""
    return predict(net.eval(), subset.samples, subset.work)


def distil(
    net: nn.Module, subset: Split, targets: Tensor, loss: DistillationLoss, *, part: str = "distillation", **how: Any
) -> dict[str, float]:
    """Train a net towards targets for these samples.

    Args:
        net: the student; its output is logits.
        subset: the samples that the rows of ``targets`` are for, in their order.
        targets: (P, C), whatever ``loss`` compares logits with.
        loss: ``loss(logits, rows of targets)``.
        part: the name under which the loss is logged.
        how: ``optimizer``, ``epochs`` and ``batch_size``, as in ``fit``.

    Returns:
        the mean loss as ``part`` and as ``loss``.

    Raises:
        ValueError: there are not as many rows as samples.
    """
    if len(targets) != len(subset):
        raise ValueError(f"{len(targets)} rows of targets cannot speak of {len(subset)} samples")

    def against_targets(net: nn.Module, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        return {part: loss(net(batch.inputs), targets[batch.positions])}

    return fit(net, subset, against_targets, given=(targets.to(subset.work.device),), **how)


def train_on_labels(net: nn.Module, data: Split, **how: Any) -> dict[str, float]:
    """Cross-entropy on labelled samples; ``how`` as in ``distil``. Returns the mean as ``cross_entropy`` and ``loss``."""
    return fit(net, data, lambda net, batch: {"cross_entropy": batch.cross_entropy(net(batch.inputs))}, **how)


def warm_up(client: Client, net: nn.Module, data: Split, *, public_epochs: int, private_epochs: int) -> None:
    """Before a client's first upload: train on the public samples whose labels are given, if any, then on its own ``data``.

    Done once a client, whenever it first takes part. As in FedMD's code the optimiser of the first half is gone afterwards,
    that of the second goes on in the revisits, as the client's "revisit".
    """
    if "warm" not in client.memory:
        public = client.public_subset(round=0).labelled()
        if public_epochs and len(public):
            train_on_labels(net, public, epochs=public_epochs)
        if private_epochs and len(data):
            train_on_labels(net, data, epochs=private_epochs, optimizer=client.optimizer("revisit", net))
        client.memory["warm"] = 1


def stacked_probabilities(uploads: Mapping[int, Knowledge], name: str = "probabilities") -> Tensor:
    """Every client's predictions of each sample, as distributions. (K, P, C), clients in order of their id.

    The guard lets pass what rounding does to probabilities, sums near one and a small negative number, and rows of zeros,
    which predict nothing: here the rows sum to one, those of zeros are uniform, and no reduction fails.
    """
    return renormalise(stack(uploads, name).clamp_min(0))
