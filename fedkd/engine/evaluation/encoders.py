"""How good a frozen encoder's features are: probes, neighbours, few labels, alignment, uniformity, fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.base.errors import TrainingError
from fedkd.base.randomness import derive, generator, seeded
from fedkd.data import Samples
from fedkd.engine.evaluation.few_labels import percent_key, stratified
from fedkd.engine.evaluation.probe import Probe, linear_probe, weighted_knn
from fedkd.engine.evaluation.representations import alignment, uniformity
from fedkd.engine.evaluation.score import Score, score
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.train import Batch, Draw, Split, fit, predict
from fedkd.losses import cross_entropy_loss
from fedkd.nets import Net, copied

#: A function of normalised samples (B, ...) that gives features (B, D).
Function = Callable[[Any], Tensor]
#: Of FedX's linear evaluation, and how many steps of Adam an epoch of a probe on a part of the samples stands for at least.
BATCH_SIZE, FEWEST_STEPS = 64, 10
#: So many samples are augmented at a time.
VIEWED = 128
#: Fine-tuning sees crops and flips, as SimCLR's does (arXiv 2002.05709, appendix B.5), whatever views training saw; but samples
#: that are no images it sees as they are, as SCARF's does (arXiv 2106.15147).
FINE_TUNING_VIEWS = "fedx"


@dataclass(frozen=True, eq=False)
class Features:
    """What an encoder makes of some samples, and their labels. On the CPU."""

    values: Tensor  # (N, D) float32
    labels: Tensor  # (N,) int64, -1 where there is none

    def at(self, positions: Tensor) -> Features:
        """Only those at these positions."""
        return Features(self.values[positions], self.labels[positions])


def features_of(function: Function, samples: Samples, node: Node, *, side_by_side: int = 1) -> Features:
    """Features of un-augmented samples, of so many batches at a time. Put nets in eval mode first."""
    return Features(predict(function, samples, node.work(), side_by_side=side_by_side), samples.labels[samples.indices])


def fit_probe(train: Features, node: Node, *purpose: str, epochs: int = 0) -> Probe:
    """The linear classifier of FedX's protocol. Without a purpose it is the same at all nodes of a round."""
    rng, epochs = generator(derive(node.experiment.seed, "probe", node.round, *purpose)), epochs or _epochs(node)
    return linear_probe(train.values, train.labels, classes=node.classes, generator=rng, epochs=epochs, batch_size=BATCH_SIZE)


def fit_small_probe(train: Features, node: Node, *purpose: str) -> Probe:
    """The same on few samples, for more epochs: Adam does not arrive in 100 epochs of 40."""
    epochs, steps = _epochs(node), ceil(len(train.labels) / BATCH_SIZE)  # of an epoch
    return fit_probe(train, node, *purpose, epochs=max(epochs, ceil(FEWEST_STEPS * epochs / steps)))


def _epochs(node: Node) -> int:
    return node.experiment.evaluation.probe_epochs


def probe_logits(probe: Probe, asked: Features) -> Tensor:
    """What the probe says of these: (N, C) on the CPU."""
    if not len(asked.labels):
        return torch.empty(0, len(probe.bias))
    return probe.logits(asked.values.to(probe.weight.device)).cpu()


def probe_score(probe: Probe, asked: Features, node: Node) -> Score:
    """How many of these the probe gets right."""
    return score(probe_logits(probe, asked).argmax(1), asked.labels, node.classes)


def neighbour_score(train: Features, asked: Features, node: Node) -> Score:
    """How many of these their 200 nearest training samples get right, by weighted vote."""
    neighbours = min(200, len(train.labels))
    answers = weighted_knn(train.values, train.labels, asked.values, classes=node.classes, neighbours=neighbours)
    return score(answers, asked.labels, node.classes)


def few_label_accuracies(train: Features, test: Features, node: Node) -> dict[str, float]:
    """The probe's accuracy when it is fitted on a share of the labels: ``probe_1_percent_accuracy`` and so on."""
    found = {}
    for share in node.experiment.evaluation.label_shares:
        few = train.at(few_labels(train.labels, share, node))
        probe = fit_small_probe(few, node, "few labels", percent_key(share))
        found[f"probe_{percent_key(share)}_accuracy"] = probe_score(probe, test, node).accuracy
    return found


def few_labels(labels: Tensor, share: float, node: Node) -> Tensor:
    """Positions of the samples whose labels (N,) are used: one draw a run, equal in all its rounds and nested by share."""
    return stratified(labels, share, generator=generator(node.experiment.seed, "few labels"))


def drawn_from_test(node: Node, count: int) -> Tensor:
    """Positions of so many global test samples, or of all: one draw a run, equal at all nodes, as a test set may be sorted."""
    size = len(node.federation.test)
    return torch.randperm(size, generator=generator(node.experiment.seed, "drawn from test"))[:count].sort().values


def view_scores(function: Function, test: Features, node: Node) -> dict[str, float]:
    """``alignment`` of two views of the compared test samples, ``uniformity`` of themselves; none if switched off."""
    positions = drawn_from_test(node, node.experiment.evaluation.compared)
    if len(positions) < 2:
        return {}
    first, second = _of_views(function, node.federation.test.subset(positions), node)
    return {"alignment": alignment(first, second), "uniformity": uniformity(test.values[positions])}


@torch.inference_mode()
def _of_views(function: Function, samples: Samples, node: Node) -> tuple[Tensor, Tensor]:
    """Features (N, D) of two views of each sample, by the experiment's preset, drawn by seed and round."""
    split, seed = node.split(samples), derive(node.experiment.seed, "alignment", node.round)
    views: tuple[list[Tensor], list[Tensor]] = ([], [])
    for positions in torch.arange(len(samples)).split(VIEWED):
        batch = split.batch(Draw(positions, derive(seed, int(positions[0]))))
        with split.work.autocast():
            for number, found in enumerate(views, 1):
                found.append(function(batch.view(number)).float().cpu())
    return torch.cat(views[0]), torch.cat(views[1])


def pictured_features(test: Features, node: Node) -> dict[str, Tensor]:
    """``features`` and ``labels`` of the test samples that are pictured; nothing if none are."""
    shown = test.at(drawn_from_test(node, node.experiment.evaluation.pictured))
    return {"features": shown.values, "labels": shown.labels} if len(shown.labels) else {}


def fine_tuned_row(net: Net, node: Node) -> dict[str, Any]:
    """``fine_tuned_1_percent_accuracy`` and so on; where training failed, why stands among ``evaluation_failures``."""
    row: dict[str, Any] = {}
    for share in node.experiment.evaluation.label_shares:
        try:
            row[f"fine_tuned_{percent_key(share)}_accuracy"] = fine_tuned_accuracy(net, share, node)
        except TrainingError as error:  # a finished run shall not be lost for this
            row["evaluation_failures"] = {node.name: str(error)}
    return row


def fine_tuned_accuracy(net: Net, share: float, node: Node) -> float:
    """Accuracy on the test set of a copy of the encoder and a fresh linear classifier, both trained on a share of the labels.

    Training is that of [train], for ``evaluation.fine_tune_epochs`` at the unscheduled rate.

    Raises:
        TrainingError: the loss is not finite.
    """
    experiment, key = node.experiment, percent_key(share)
    train = node.federation.train.labelled()
    few = train.subset(few_labels(train.labels[train.indices], share, node))
    where = f"{node.work().where}, fine-tuning on {100 * share:g} % of the labels"
    work = replace(node.work(), lr=experiment.train.lr, views=FINE_TUNING_VIEWS, where=where)
    with seeded(derive(experiment.seed, "fine-tuning", key)):  # dropout too
        tuned = _with_classifier(net, node)
        data = Split(few, work, lambda purpose: node.rng(f"fine-tuning {key} {purpose}"))
        images = few.kind.name == "image"
        fit(tuned, data, _classify_views if images else _classify, epochs=experiment.evaluation.fine_tune_epochs)
    asked = features_of(tuned.eval(), node.federation.test, node)
    return score(asked.values.argmax(1), asked.labels, node.classes).accuracy


def _classify(net: Net, batch: Batch) -> Mapping[str, Tensor]:
    return {"cross_entropy": cross_entropy_loss(net(batch.inputs), batch.labels)}


def _classify_views(net: Net, batch: Batch) -> Mapping[str, Tensor]:
    return {"cross_entropy": cross_entropy_loss(net(batch.view(1)), batch.labels)}


def _with_classifier(net: Net, node: Node) -> Net:
    """A copy of the encoder, with nothing on it but a fresh classifier."""
    own = copied(net).requires_grad_(True)
    head = {"classifier": nn.Linear(net.width, node.classes)}
    return Net(net.architecture, own.encoder, head, width=net.width, memory_format=net.memory_format).to(node.device)
