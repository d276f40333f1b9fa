"""Rows that no data set holds, as samples to train on: uploaded features, or noise for a generator."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.data import KINDS, Moments, Samples
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.train import Split


def rows_split(node: Node, rows: Tensor, labels: Tensor) -> Split:
    """Rows (M, D) with class ids (M,) int64, bound to a node's settings; a batch's ``inputs`` are the rows as they are."""
    moments = Moments(torch.zeros(rows.shape[1]), torch.ones(rows.shape[1]))
    return node.split(Samples(rows, labels, torch.arange(len(rows)), KINDS["vector"], moments, node.classes))
