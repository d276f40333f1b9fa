"""Evaluation: accuracy of what a strategy calls its predictors, at the server and at the clients."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkd.data import Samples
from fedkd.knowledge import Knowledge
from fedkd.nets import Net
from fedkd.node import Node, load
from fedkd.probe import Probe, linear_probe, weighted_knn
from fedkd.randomness import derive, generator
from fedkd.train import predict


@dataclass(frozen=True)
class Predictor(ABC):
    """Something to evaluate: a function of normalised images (B, C, H, W)."""

    function: Callable[[Tensor], Tensor]


class Classifier(Predictor):
    """Gives logits or probabilities (B, C); its accuracy is that of the largest."""


class Embedder(Predictor):
    """Gives features (B, D); its accuracy is that of a linear classifier fitted on them (linear probe)."""


def classifier(net: nn.Module) -> Classifier:
    """The net's logits, in eval mode."""
    return Classifier(net.eval())


def broadcast_net(node: Node, broadcast: Knowledge, *, heads: tuple[str, ...] = ("classifier",)) -> Net:
    """The net whose weights were broadcast, in eval mode, at any node."""
    net = node.net("broadcast", heads=heads)
    load(net, broadcast.tensors)
    return net.eval()


@dataclass(frozen=True)
class Score:
    """Right answers by class. ``accuracy`` is a fraction; NaN where there was nothing to answer."""

    correct: Tensor  # (C,)
    samples: Tensor  # (C,)

    @property
    def accuracy(self) -> float:
        """Right answers over all answers."""
        return float(self.correct.sum() / self.samples.sum()) if self.samples.sum() else math.nan


def score(answers: Tensor, labels: Tensor, classes: int) -> Score:
    """Count right answers (M,) against labels (M,) by class; labels of -1 do not count."""
    known = labels >= 0
    samples = torch.bincount(labels[known], minlength=classes)
    correct = torch.bincount(labels[known & (answers == labels)], minlength=classes)
    return Score(correct, samples)


def score_classifier(predictor: Classifier, samples: Samples, node: Node) -> Score:
    """The score of a classifier on these samples."""
    outputs = predict(predictor.function, samples, node.work())  # (M, C)
    answers = outputs.argmax(1) if len(outputs) else torch.empty(0, dtype=torch.int64)
    return score(answers, samples.labels[samples.indices], node.classes)


@dataclass(frozen=True)
class GlobalScores:
    """What the server found: the numbers for the metrics row, and the probe of each embedder, for the clients to use."""

    row: Mapping[str, float | list[float]]
    probes: Mapping[str, Probe]


def evaluate_global(predictors: Mapping[str, Predictor], node: Node) -> GlobalScores:
    """Score every predictor on the global test set; the first is the headline, ``accuracy``."""
    row: dict[str, float | list[float]] = {}
    probes: dict[str, Probe] = {}
    for position, (name, predictor) in enumerate(predictors.items()):
        if isinstance(predictor, Embedder):
            scored, neighbours, probes[name] = _probe(predictor, node)
            extra = {"probe_accuracy": scored.accuracy, "knn_accuracy": neighbours.accuracy}
        else:
            scored, extra = score_classifier(Classifier(predictor.function), node.federation.test, node), {}
        if position == 0:
            row |= {"accuracy": scored.accuracy, "class_accuracy": (scored.correct / scored.samples).tolist(), **extra}
        row.setdefault(f"{name}_accuracy", scored.accuracy)
    return GlobalScores(row, probes)


def _probe(predictor: Embedder, node: Node) -> tuple[Score, Score, Probe]:
    """Linear probe and weighted kNN, fitted on the labelled training images of all clients, scored on the test set."""
    federation, classes = node.federation, node.classes
    train, test = federation.train.labelled(), federation.test
    fitted, asked = (predict(predictor.function, samples, node.work()) for samples in (train, test))
    labels, truth = train.labels[train.indices], test.labels[test.indices]
    rng = generator(derive(node.experiment.seed, "probe", node.round))
    probe = linear_probe(fitted, labels, classes=classes, generator=rng)
    neighbours = weighted_knn(fitted, labels, asked, classes=classes, neighbours=min(200, len(labels)))
    return score(probe.logits(asked).argmax(1), truth, classes), score(neighbours, truth, classes), probe
