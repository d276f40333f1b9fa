"""Early stopping: distillation that is looked at on a validation set as it goes on, and of which the best moment is kept."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from fedkd.base.errors import TrainingError
from fedkd.experiment.algorithm.optimizer_state import trainable
from fedkd.experiment.algorithm.train import Batch, Split, fit, predict
from fedkd.knowledge.table import Table
from fedkd.methods.public_distillation import DistillationLoss
from fedkd.nets import load


@dataclass(frozen=True)
class Patience:
    """For how long to train at most, how often to look, and when to give up; in steps."""

    steps: int
    validate_every: int
    patience: int


def distil_to_best(
    net: nn.Module,
    subset: Split,
    targets: Tensor,
    loss: DistillationLoss,
    *,
    validation: Split,
    until: Patience,
    lr: float,
    batch_size: int,
) -> float:
    """Train a net towards what was said of these samples, by Adam, and leave it as it did best on the validation set.

    The start counts too. The learning rate falls to zero over ``until.steps`` as half a cosine. Samples come in shuffled
    passes, each of them once in each pass; ``validate_every`` steps are one ``fit``. A loss that is not finite ends the
    training, not the run: the best is still at hand.

    Args:
        net: the student; its output is logits.
        subset: the samples that the rows of ``targets`` speak of, in their order.
        targets: (P, C), whatever ``loss`` compares logits with.
        loss: ``loss(logits, rows of targets)``.
        validation: labelled samples.
        until: when to stop.
        lr: the first learning rate.
        batch_size: samples a step.

    Returns:
        the best accuracy on ``validation``, 0..1.
    """
    table, device = Table(subset.samples.indices, targets.cpu()), subset.work.device

    def distillation(net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"distillation": loss(net(batch.images), table.rows(batch.ids).to(device))}

    best, best_accuracy, best_step = _copy(net), accuracy(net, validation), 0
    adam = torch.optim.Adam(trainable(net, subset.work.where), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, until.steps))
    passes = subset.passes(batch_size, subset.rng("passes"))
    for step in range(0, until.steps, until.validate_every):
        now = min(step + until.validate_every, until.steps)
        try:
            fit(net, subset, distillation, optimizer=adam, draws=[*islice(passes, now - step)], after_step=schedule.step)
        except TrainingError:
            break
        if (found := accuracy(net, validation)) > best_accuracy:
            best, best_accuracy, best_step = _copy(net), found, now
        elif now - best_step >= until.patience:
            break
    load(net, best)
    return best_accuracy


def accuracy(net: nn.Module, data: Split) -> float:
    """The share of labelled samples whose largest logit is the right one, 0..1."""
    logits = predict(net.eval(), data.samples, data.work)  # (M, C)
    return float((logits.argmax(1) == data.samples.labels[data.samples.indices]).double().mean())


def _copy(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}
