"""Evaluation: accuracy of what a strategy calls its predictors, at the server and at the clients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedkd.data import Samples
from fedkd.engine.evaluation.client_embedder import ClientEmbedder
from fedkd.engine.evaluation.encoders import (
    Features,
    features_of,
    few_label_accuracies,
    fine_tuned_row,
    fit_probe,
    neighbour_score,
    pictured_features,
    probe_score,
    view_scores,
)
from fedkd.engine.evaluation.peers import compared
from fedkd.engine.evaluation.probe import Probe
from fedkd.engine.evaluation.score import Score, score
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.predictors import Embedder, Peers, Predictor
from fedkd.experiment.algorithm.train import predict
from fedkd.knowledge.knowledge import Knowledge
from fedkd.nets import ZOO

#: In a client's answer to an evaluation: the logits of its headline predictor on the global test set, (M, C) float32.
PEER_LOGITS = "peer_logits"


def outputs_of(predictor: Predictor, samples: Samples, node: Node) -> Tensor:
    """What it gives for each sample, in order: (M, C) float32 on the CPU of a classifier, (K, M, C) of peers."""
    function = predictor.function
    if not isinstance(predictor, Peers):
        return predict(function, samples, node.work()) if len(samples) else torch.empty(0, node.classes)
    if not len(samples):
        return torch.empty(1, 0, node.classes)
    # Peers come after samples in between, as predict joins batches along their first dimension.
    return predict(lambda inputs: function(inputs).transpose(0, 1), samples, node.work()).transpose(0, 1)


def score_outputs(predictor: Predictor, outputs: Tensor, samples: Samples, node: Node) -> Score:
    """The score of what ``outputs_of`` gave; without a headline each of K peers counts for 1/K of an answer."""
    labels = samples.labels[samples.indices]
    if not isinstance(predictor, Peers):
        return score(outputs.argmax(1), labels, node.classes)
    asked = outputs if predictor.headline is None else outputs[[predictor.headline]]
    scores = [score(logits.argmax(1), labels, node.classes) for logits in asked]
    return Score(torch.stack([each.correct for each in scores]).double().mean(0), scores[0].samples)


def spoken(predictor: Predictor, outputs: Tensor) -> Tensor:
    """The logits (M, C) with which a client is compared to others: of its headline, else of its peers' mean probabilities."""
    if not isinstance(predictor, Peers):
        return outputs
    if predictor.headline is not None:
        return outputs[predictor.headline]
    return outputs.log_softmax(-1).logsumexp(0) - math.log(len(outputs))  # finite where a probability underflows


def evaluate_client(
    predictors: Mapping[str, Predictor], client: Client, probes: Mapping[str, Probe], *, globally: bool, logits: bool
) -> Knowledge:
    """Score every predictor on the client's own test samples; embedders by linear probes.

    Args:
        predictors: what the strategy evaluates at this client; the first is the headline.
        client: where.
        probes: those that the server fitted, by name of predictor; where there is none, it is fitted here.
        globally: whether on the global test set too.
        logits: whether the headline's logits there, (M, C), travel with the counts, for clients to be compared by them.

    Returns:
        metrics ``<name>/<split>/correct`` and ``.../samples``, of the splits ``own`` and ``global``, for every predictor and,
        of a headline embedder, for what ``ClientEmbedder.beside`` names; ``PEER_LOGITS`` if asked.
    """
    scores: dict[str, Score] = {}
    beside: dict[str, Score] = {}
    tensors: dict[str, Tensor] = {}
    splits = {"own": client.test.samples} | ({"global": client.federation.test} if globally else {})
    for position, (name, predictor) in enumerate(predictors.items()):
        if isinstance(predictor, Embedder):
            embedder = ClientEmbedder(predictor.function, splits, probes.get(name), client)
            outputs = embedder.logits()
            beside |= embedder.beside() if position == 0 else {}
        else:
            outputs = {split: outputs_of(predictor, samples, client) for split, samples in splits.items()}
        scores |= {f"{name}/{split}": score_outputs(predictor, outputs[split], splits[split], client) for split in splits}
        if logits and globally and position == 0:
            tensors[PEER_LOGITS] = spoken(predictor, outputs["global"])
    metrics: dict[str, float] = {}
    for key, scored in {**scores, **beside}.items():
        metrics |= {f"{key}/correct": float(scored.correct.sum()), f"{key}/samples": float(scored.samples.sum())}
    return Knowledge.of("logits", tensors, metrics=metrics)


@dataclass(frozen=True)
class GlobalScores:
    """What the server found: the metrics row, each embedder's probe, for the clients, and the headline's representations."""

    row: Mapping[str, Any]
    probes: Mapping[str, Probe]
    representations: Mapping[str, Tensor]


def in_words(name: str, predictor: Predictor) -> str:
    """Whose accuracy the headline is, as the row's ``accuracy_of`` says it."""
    named = name.replace("_", " ")
    if isinstance(predictor, Embedder):
        named = f"linear probe of the {named}"
    elif isinstance(predictor, Peers):
        named = f"mean of the {named}" if predictor.headline is None else f"number {predictor.headline + 1} of the {named}"
    else:
        named = f"{named} classifier"
    return f"{named}, at the server"


def evaluate_global(predictors: Mapping[str, Predictor], node: Node, *, side_by_side: int = 1) -> GlobalScores:
    """Score every predictor on the global test set; the first is the headline, ``accuracy``. The first Peers are compared.

    Nothing is found where that set is empty, nor of embedders where no labelled samples are here to fit probes to: a server may
    lack both, where each client has its own data.

    Args:
        predictors: by name.
        node: the server.
        side_by_side: how many batches at a time go through an embedder's net, if it is one of fedkd's own, on a CPU.
    """
    row: dict[str, Any] = {}
    probes: dict[str, Probe] = {}
    pictured: dict[str, Tensor] = {}
    test = node.federation.test
    for position, (name, predictor) in enumerate(_scored_here(predictors, node).items()):
        beside: dict[str, Any] = {}
        if isinstance(predictor, Embedder):
            many = side_by_side if _keeps_nothing(predictor) and node.device.type == "cpu" else 1
            splits = (node.federation.train.labelled(), test)
            train, asked = (features_of(predictor.function, each, node, side_by_side=many) for each in splits)
            probes[name] = fit_probe(train, node)
            scored = probe_score(probes[name], asked, node)
            if position == 0:
                beside = {"probe_accuracy": scored.accuracy, **_of_embedder(predictor, train, asked, node)}
                pictured = pictured_features(asked, node)
        else:
            outputs = outputs_of(predictor, test, node)
            scored = score_outputs(predictor, outputs, test, node)
            if isinstance(predictor, Peers) and "peer_accuracies" not in row:
                beside = dict(compared(outputs, test.labels[test.indices]))
        if position == 0:
            row |= {"accuracy": scored.accuracy, "accuracy_of": in_words(name, predictor)}
            row["class_accuracy"] = (scored.correct / scored.samples).tolist()
        row |= beside
        row.setdefault(f"{name}_accuracy", scored.accuracy)
    return GlobalScores(row, probes, pictured)


def _keeps_nothing(predictor: Embedder) -> bool:
    """Whether it is a net of which we know that one call leaves nothing to the next: a user's may count, cache or draw."""
    return predictor.net is not None and predictor.net.architecture in ZOO


def _scored_here(predictors: Mapping[str, Predictor], node: Node) -> Mapping[str, Predictor]:
    """Those that there is something to score on, and for embedders something to fit a probe to."""
    if not len(node.federation.test):
        return {}
    embedders = any(isinstance(predictor, Embedder) for predictor in predictors.values())
    if not embedders or len(node.federation.train.labelled()):
        return predictors
    return {name: predictor for name, predictor in predictors.items() if not isinstance(predictor, Embedder)}


def _of_embedder(predictor: Embedder, train: Features, test: Features, node: Node) -> dict[str, Any]:
    """What else the row says of a headline embedder. It is fine-tuned after the last round only, and if asked."""
    row: dict[str, Any] = {"knn_accuracy": neighbour_score(train, test, node).accuracy}
    row |= few_label_accuracies(train, test, node) | view_scores(predictor.function, test, node)
    experiment = node.experiment
    if predictor.net is not None and experiment.evaluation.fine_tune_epochs and node.round == experiment.rounds:
        row |= fine_tuned_row(predictor.net, node)
    return row
