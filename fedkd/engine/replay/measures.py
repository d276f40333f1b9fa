"""How good a broadcast is, as far as that can be told without clients, and how far two are apart."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from fedkd.engine.audit.shadows import public_rows
from fedkd.engine.evaluation.evaluate import outputs_of, score_outputs
from fedkd.engine.replay.changes import ANSWERS
from fedkd.engine.teaching import known_labels
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.predictors import Classifier
from fedkd.experiment.algorithm.server import Server
from fedkd.knowledge.knowledge import Knowledge

ON_TEST, ON_PUBLIC, ON_CLASSES = "on the global test set", "on the public samples", "classes whose own row is largest there"


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers, and of what; None where a broadcast answers nothing."""

    value: float | None
    of: str = ""


def accuracy_of(broadcast: Knowledge, strategy: Algorithm, server: Server) -> Accuracy:
    """Of weights, the server's classifier on the global test set; of a table of answers, its own rows.

    Labels of public samples that nobody may train on are used here: nothing is learned from them.
    """
    if "weights" in broadcast.spaces.values():
        first = next(iter(strategy.predictors(server, broadcast).values()), None)
        if not isinstance(first, Classifier) or not len(test := server.federation.test):
            return Accuracy(None)
        return Accuracy(score_outputs(first, outputs_of(first, test, server), test, server).accuracy, ON_TEST)
    table = answers_in(broadcast)
    if table is None:
        return Accuracy(None)
    rows = public_rows(strategy, server) if server.federation.public else torch.empty(0)
    if len(rows) and len(rows) == len(table):
        labels = known_labels(server, rows)
        known = labels >= 0
        return Accuracy(_share(table.argmax(1)[known] == labels[known]), ON_PUBLIC)
    if table.shape == (server.classes, server.classes):
        filled = table.abs().sum(1) > 0
        return Accuracy(_share((table.argmax(1) == torch.arange(server.classes))[filled]), ON_CLASSES)
    return Accuracy(None)


def answers_in(knowledge: Knowledge) -> Tensor | None:
    """Its one table of logits or probabilities (P, C); None where it has none, or several."""
    tables = [tensor for name, tensor in knowledge.tensors.items() if knowledge.spaces[name] in ANSWERS and tensor.dim() == 2]
    return tables[0] if len(tables) == 1 else None


def agreement(one: Knowledge, other: Knowledge) -> float | None:
    """The share of rows for which two tables of answers have the same class; None where they have none."""
    first, second = answers_in(one), answers_in(other)
    if first is None or second is None or first.shape != second.shape:
        return None
    return _share(first.argmax(1) == second.argmax(1))


def difference(one: Knowledge, other: Knowledge) -> float:
    """How far the second is from the first, over the length of the first: 0 where they are equal."""
    pairs = [(one.tensors[name].double(), other.tensors[name].double()) for name in one.tensors]
    length = sqrt(sum(float(first.square().sum()) for first, _ in pairs))
    apart = sqrt(sum(float((first - second).square().sum()) for first, second in pairs))
    return apart / length if length else apart


def equal(one: Knowledge, other: Knowledge) -> bool:
    """Whether two are the same to the bit, their meaning and their facts too."""
    same = one.spaces == other.spaces and one.header == other.header and one.weight == other.weight
    return same and all(_same_bits(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.cpu().contiguous().view(-1).view(torch.uint8), other.cpu().contiguous().view(-1).view(torch.uint8))


def _share(right: Tensor) -> float | None:
    return float(right.double().mean()) if right.numel() else None
