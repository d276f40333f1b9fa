"""Evaluation: accuracy of what a strategy calls its predictors, at the server and at the clients."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkd.client import Client
from fedkd.data import Samples
from fedkd.knowledge import Knowledge
from fedkd.nets import Net, load
from fedkd.node import Node
from fedkd.peer_scores import compared
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
    net = node.net("broadcast", heads=heads)
    load(net, broadcast.tensors)
    return net.eval()


#: In a client's answer to an evaluation: the logits of its headline predictor on the global test set, (M, C) float32.
PEER_LOGITS = "peer_logits"


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


def outputs_of(predictor: Classifier | Peers, samples: Samples, node: Node) -> Tensor:
    """What it says of each sample, in order: (M, C) float32 on the CPU of a classifier, (K, M, C) of peers."""
    function = predictor.function
    if not isinstance(predictor, Peers):
        return predict(function, samples, node.work()) if len(samples) else torch.empty(0, node.classes)
    if not len(samples):
        return torch.empty(1, 0, node.classes)
    # Peers come after samples in between, as predict joins batches along their first dimension.
    return predict(lambda images: function(images).transpose(0, 1), samples, node.work()).transpose(0, 1)


def score_outputs(predictor: Classifier | Peers, outputs: Tensor, samples: Samples, node: Node) -> Score:
    """The score of what ``outputs_of`` gave; without a headline each of K peers counts for 1/K of an answer."""
    labels = samples.labels[samples.indices]
    if not isinstance(predictor, Peers):
        return score(outputs.argmax(1), labels, node.classes)
    asked = outputs if predictor.headline is None else outputs[[predictor.headline]]
    scores = [score(logits.argmax(1), labels, node.classes) for logits in asked]
    return Score(torch.stack([each.correct for each in scores]).double().mean(0), scores[0].samples)


def spoken(predictor: Classifier | Peers, outputs: Tensor) -> Tensor:
    """The logits (M, C) with which a client is compared to others: of its headline, else of its peers' mean probabilities."""
    if not isinstance(predictor, Peers):
        return outputs
    if predictor.headline is not None:
        return outputs[predictor.headline]
    return outputs.log_softmax(-1).logsumexp(0) - math.log(len(outputs))  # finite where a probability underflows


def evaluate_client(
    predictors: Mapping[str, Predictor], client: Client, probes: Mapping[str, Probe], *, globally: bool, logits: bool
) -> Knowledge:
    """Score every predictor on the client's own test samples; embedders by the server's linear probes.

    Args:
        predictors: what the strategy evaluates at this client; the first is the headline.
        client: where.
        probes: by name of predictor.
        globally: whether on the global test set too.
        logits: whether the headline's logits there, (M, C), travel with the counts, for clients to be compared by them.

    Returns:
        metrics ``<name>/<split>/correct`` and ``.../samples``, of the splits ``own`` and ``global``; ``PEER_LOGITS`` if asked.
    """
    metrics: dict[str, float] = {}
    tensors: dict[str, Tensor] = {}
    splits = {"own": client.test.samples} | ({"global": client.federation.test} if globally else {})
    for position, (name, given) in enumerate(predictors.items()):
        predictor = _classifying(given, probes.get(name))
        for split, samples in splits.items():
            outputs = outputs_of(predictor, samples, client)
            scored = score_outputs(predictor, outputs, samples, client)
            metrics[f"{name}/{split}/correct"] = float(scored.correct.sum())
            metrics[f"{name}/{split}/samples"] = float(scored.samples.sum())
            if logits and split == "global" and position == 0:
                tensors[PEER_LOGITS] = spoken(predictor, outputs)
    return Knowledge.of("logits", tensors, metrics=metrics)


def _classifying(predictor: Predictor, probe: Probe | None) -> Classifier | Peers:
    """The predictor itself, or an embedder under the linear probe that the server fitted."""
    if isinstance(predictor, Peers):
        return predictor
    if not isinstance(predictor, Embedder):
        return Classifier(predictor.function)
    if probe is None:
        raise ValueError("an embedder can be evaluated at a client only with the server's probe")
    return Classifier(lambda images: probe.logits(predictor.function(images)))


@dataclass(frozen=True)
class GlobalScores:
    """What the server found: the numbers for the metrics row, and the probe of each embedder, for the clients to use."""

    row: Mapping[str, float | list[float]]
    probes: Mapping[str, Probe]


def evaluate_global(predictors: Mapping[str, Predictor], node: Node) -> GlobalScores:
    """Score every predictor on the global test set; the first is the headline, ``accuracy``. The first Peers are compared."""
    row: dict[str, float | list[float]] = {}
    probes: dict[str, Probe] = {}
    test = node.federation.test
    for position, (name, predictor) in enumerate(predictors.items()):
        beside: dict[str, float | list[float]] = {}
        if isinstance(predictor, Embedder):
            scored, neighbours, probes[name] = _probe(predictor, node)
            if position == 0:
                beside = {"probe_accuracy": scored.accuracy, "knn_accuracy": neighbours.accuracy}
        else:
            classifying = _classifying(predictor, None)
            outputs = outputs_of(classifying, test, node)
            scored = score_outputs(classifying, outputs, test, node)
            if isinstance(predictor, Peers) and "peer_accuracies" not in row:
                beside = compared(outputs, test.labels[test.indices])
        if position == 0:
            row |= {"accuracy": scored.accuracy, "class_accuracy": (scored.correct / scored.samples).tolist()}
        row |= beside
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
