"""Predictors: what a strategy gives to be evaluated, at the server and at clients."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fedkd.experiment.algorithm.node import Node
from fedkd.knowledge.knowledge import Knowledge
from fedkd.nets import Net


@dataclass(frozen=True)
class Predictor(ABC):
    """Something to evaluate: a function of normalised samples (B, ...)."""

    function: Callable[[Any], Tensor]


class Classifier(Predictor):
    """Gives logits or probabilities (B, C); its accuracy is that of the largest."""


@dataclass(frozen=True)
class Embedder(Predictor):
    """Gives features (B, D); its accuracy is that of a linear classifier fitted on them (linear probe).

    ``net``, where it is given, is the net whose ``features`` they are: a copy of it can be fine-tuned on few labels.
    """

    net: Net | None = None


@dataclass(frozen=True)
class Peers(Predictor):
    """Gives the logits of K classifiers at once, (K, B, C): branches, exits, generations. It is run once a batch.

    Their accuracy is the mean of theirs, or that of number ``headline``. The first Peers at the server are compared too:
    each one's accuracy, that of their ensemble, how far they agree.
    """

    headline: int | None = None


def classifier(net: nn.Module) -> Classifier:
    """The net's logits, in eval mode."""
    return Classifier(net.eval())


def broadcast_net(node: Node, broadcast: Knowledge, *, heads: tuple[str, ...] = ("classifier",)) -> Net:
    """The net whose weights were broadcast, in eval mode, at any node."""
    return node.net("broadcast", heads=heads, weights=broadcast.tensors).eval()
