"""Anchors: embeddings of public samples that all nodes know, as unit rows (P, D), by which encoders are compared.

The rows are of the samples of one split, in its order, un-augmented. They are looked up by sample id, so no
shuffling can take a row to another sample; and no ids travel, as all nodes put the public samples in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, cast, final

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs, concatenate, count
from fedkd.experiment.algorithm.train import Split, predict
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.table import Table
from fedkd.losses.rows import unit_rows
from fedkd.nets import Encoder, Net

#: The name under which rows travel, both ways.
ANCHORS = "anchors"


@final
class Anchors:
    """Rows of embeddings by sample id, on the device where they are used.

    >>> anchors = Anchors(torch.tensor([30, 10, 20]), torch.tensor([[3.0], [1.0], [2.0]]))
    >>> anchors.rows(torch.tensor([10, 30])).flatten().tolist(), anchors.others(torch.tensor([10, 30])).flatten().tolist()
    ([1.0, 3.0], [2.0])
    """

    def __init__(self, ids: Tensor, values: Tensor) -> None:
        self._table = Table(ids, values)

    @classmethod
    def received(cls, broadcast: Knowledge, subset: Split, net: Net, *heads: str) -> Self | None:
        """The server's anchors of these samples; None where it has sent none yet.

        Args:
            broadcast: from the server.
            subset: the samples that they are of, in the order that all nodes share.
            net: the node's own, whose embeddings are to be compared with them.
            heads: what these pass after the projection head, one after the other.

        Raises:
            InputError: there are not as many rows as samples here, or not of the width of the net's embeddings.
        """
        rows = broadcast.tensors.get(ANCHORS)
        if rows is None:
            return None
        expected = (len(subset), width_of(net, *heads))
        if tuple(rows.shape) != expected:
            raise InputError(
                f"anchors of shape {tuple(rows.shape)} came, but the public samples and the net here make {expected}: "
                "give all nodes the same strategy.public_samples, and nets whose projections have one width"
            )
        return cls(subset.samples.indices, rows.to(subset.work.device))

    def rows(self, ids: Tensor) -> Tensor:
        """The rows (B, D) of these samples (B,). Raises KeyError naming a sample that has none."""
        return self._table.rows(ids)

    def others(self, ids: Tensor) -> Tensor:
        """The rows (P - B, D) of all samples but these (B,), in order of their ids."""
        return self._table.values[self._elsewhere(ids)]

    def replace(self, ids: Tensor, rows: Tensor) -> None:
        """Put rows (B, D), without their graph, in the places of those of samples (B,) that have one."""
        self._table.values[torch.searchsorted(self._table.ids, ids)] = rows.detach().to(self._table.values)

    def _elsewhere(self, ids: Tensor) -> Tensor:
        return torch.isin(self._table.ids, ids, invert=True).nonzero().squeeze(1)


def project(net: Net, parts: Sequence[Inputs]) -> tuple[Tensor, ...]:
    """Projections (B, D) of several batches of samples (B, ...), which may differ in size: one forward pass for all."""
    projected = net.head("projection", net.features(concatenate(parts)))
    pieces: tuple[Tensor, ...] = projected.split([count(part) for part in parts])
    return pieces


def embed_public(net: Net, subset: Split, *heads: str) -> Tensor:
    """The net's embeddings of these samples, in eval mode and in their order: unit rows (P, D) float32, on the CPU.

    They are its projections, after the further ``heads``, if any, one after the other.
    """
    net.eval()
    rows = predict(lambda inputs: _after(net, net.head("projection", net.features(inputs)), heads), subset.samples, subset.work)
    return unit_rows(rows)


def _after(net: Net, rows: Tensor, heads: tuple[str, ...]) -> Tensor:
    for head in heads:
        rows = net.head(head, rows)
    return rows


def width_of(net: Net, *heads: str) -> int:
    """D, the width of the net's embeddings: its projections, after the further ``heads``, if any."""
    training = net.training
    features = torch.zeros(1, cast(Encoder, net.encoder).out_features, device=next(net.parameters()).device)
    with torch.no_grad():
        rows = _after(net.eval(), net.head("projection", features), heads)
    net.train(training)
    return rows.shape[1]
