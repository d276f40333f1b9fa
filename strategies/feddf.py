"""FedDF: the server distils the ensemble of the clients' nets into one net for each architecture."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedkd import (
    Batch,
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    Positive,
    Server,
    Split,
    Strategy,
    Table,
    TensorSpec,
    broadcast_net,
    classifier,
    fit,
    load,
    predict,
)
from fedkd.aggregate import mean, weighted_mean
from fedkd.base.errors import TrainingError
from fedkd.experiment.algorithm.conditions import Idle, Unless, When
from fedkd.experiment.algorithm.optimizer_state import trainable
from fedkd.losses.distillers import SOFTENED, LogitLossName, logit_loss
from fedkd.methods import architecture_groups as groups
from fedkd.methods.public_distillation import DistillationLoss, predict_public

Steps = Annotated[int, Field(ge=1)]


@final
@dataclass(frozen=True)
class FedDF(Strategy):
    """Clients train and return weights; each architecture's mean learns the mean logits of all nets on public samples.

    Paper: Lin et al., "Ensemble Distillation for Robust Model Fusion in Federated Learning", NeurIPS 2020, arXiv
    2006.07242.
    What travels: weights and buffers of the client's architecture g, down and up; |θ_g| elements each. Public samples
    and labelled validation samples are the server's alone. ``accuracy`` is that of ``server_net``'s student.
    A student starts as the plain mean of what its architecture's clients returned (if none did, as it was) and descends
    KL(mean of all logits || student), T = 1, by Adam with a cosine rate; of it the best on the validation set is kept.
    The teachers predict the whole public set once a round: the same as once a step, since its views are not augmented.
    ``drop_worst``, off in the code too, leaves out nets below 1.2 times chance on the validation set, of means and of
    teachers (unless that is all of them). Where there are none, nets far below the others do not teach, but count in
    their mean:
        accuracy < mean - 1.5 deviations,   both of all nets but the best
    Deviations: steps, patience and the steps between validations are a tenth of the code's. It averages logits, and
    counts the start among the candidates, only if told to; both are fixed here. Gradients are clipped by ``train.clip``
    (there at 5).
    At another ``temperature`` than 1 the loss "kd" is multiplied by its square, which the code leaves out. With
    ``drop_worst`` all teachers stay in eval mode; there validating leaves them in train mode. An architecture nobody
    returned is distilled too. Nets whose logits are not finite do not count. No FedProx term, no weights of teachers,
    no choice of public samples.
    """

    steps: Annotated[int, Field(ge=0)] = 1000  # at most, for each architecture; 10,000 in the code; 0 = the mean
    validate_every: Steps = 10  # steps from one look at the validation set to the next; 100 in the code
    patience: Steps = 100  # steps without a better accuracy on the validation set; 1,000 in the code
    batch_size: Steps = 128  # public samples a step
    lr: Positive = 1e-3  # learning rate of Adam
    loss: LogitLossName = "kd"  # on logits, by name: see `fedkd losses`
    temperature: Positive = 1.0  # T of the loss, if it has one; "kd" is multiplied by its square
    drop_worst: bool = False  # whether the clients' nets that do badly on the validation set are left out

    paper: ClassVar[str] = "Lin et al., NeurIPS 2020, arXiv 2006.07242"
    sends: ClassVar[str] = "weights and buffers, both ways, by architecture"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, validation=True, uses=("server_net",))
    idle: ClassVar[Idle] = {
        **dict.fromkeys(("validate_every", "patience", "batch_size", "lr", "loss"), (Unless(steps=0),)),
        "temperature": (Unless(steps=0), When("loss", *SOFTENED)),
    }

    def first_broadcast(self, server: Server) -> Mapping[int, Knowledge]:
        """Each architecture's shared initial weights."""
        return groups.weights_of_groups(server)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Weights and buffers of the client's architecture."""
        return groups.weights_schema(server, client)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of cross-entropy, from the weights of the client's architecture."""
        return groups.train_received(client, broadcast)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """One student for each architecture, distilled from the nets of all."""
        predictions, accuracies = self._predictions(server, uploads)
        if not predictions:
            return {}
        counted, teachers = kept(accuracies, server.classes) if self.drop_worst else (predictions, predictions)
        teaching = torch.stack([logits for client, logits in predictions.items() if client in teachers])  # (K, P, C)
        targets = mean(teaching)  # (P, C)
        server.show_teaching({k: predictions[k] for k in predictions if k in teachers}, targets, server.public)
        until = Patience(self.steps, self.validate_every, self.patience)
        loss = logit_loss(self.loss, temperature=self.temperature)
        distil = partial(
            distil_to_best, loss=loss, validation=server.validation, until=until, lr=self.lr, batch_size=self.batch_size
        )
        for architecture in groups.architectures(server):
            student = groups.group_net(server, architecture)
            own = {k: uploads[k] for k in counted if server.architecture_of(k) == architecture}
            if own:
                load(student, weighted_mean(own, weights=[1.0] * len(own)).tensors)
            server.report({f"{architecture}_validation_accuracy": distil(student, server.public, targets)})
        return groups.weights_of_groups(server)

    def _predictions(
        self, server: Server, uploads: Mapping[int, Knowledge]
    ) -> tuple[dict[int, Tensor], dict[int, float]]:
        """Public logits (P, C) of every net whose are finite, and, if need be, its accuracy on the validation set."""
        predictions: dict[int, Tensor] = {}
        accuracies: dict[int, float] = {}
        for client, teacher in groups.clients_nets(server, {k: upload.tensors for k, upload in uploads.items()}):
            logits = predict_public(teacher, server.public)
            if logits.isfinite().all():
                predictions[client] = logits
                accuracies |= {client: accuracy(teacher, server.validation)} if self.drop_worst else {}
        return predictions, accuracies

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The students at the server, that of its own architecture first; its group's at a client."""
        if not isinstance(node, Server):
            return {"group": classifier(broadcast_net(node, broadcast))}
        students = {name: classifier(groups.group_net(node, name)) for name in groups.architectures(node)}
        return {"server": students.pop(node.architecture), **students}


def kept(accuracies: Mapping[int, float], classes: int) -> tuple[Collection[int], Collection[int]]:
    """Who is good enough: the clients whose nets are averaged, and those whose nets teach.

    >>> kept({0: 0.5, 1: 0.11, 2: 0.6}, 10)  # chance is 0.1
    ([0, 2], [0, 2])
    >>> kept({0: 0.8, 1: 0.78, 2: 0.79, 3: 0.2, 4: 0.8, 5: 0.81}, 10)  # mean and deviation of five: 0.674 and 0.237
    ([0, 1, 2, 3, 4, 5], [0, 1, 2, 4, 5])
    """
    everybody = list(accuracies)
    better = [client for client in everybody if accuracies[client] >= 1.2 / classes]
    if len(better) < len(everybody) or len(everybody) < 2:
        return better or everybody, better or everybody
    rest = torch.tensor(sorted(accuracies.values())[:-1], dtype=torch.float64)
    margin = 1e-9  # equal ones are no outliers, whatever rounding says
    least = float(rest.mean() - 1.5 * rest.std(correction=0)) - margin
    return everybody, [client for client in everybody if accuracies[client] >= least]


# ---- distillation with early stopping


@final
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
    """Train a net towards targets for these samples, by Adam, and leave it as it did best on the validation set.

    The start counts too. The learning rate falls to zero over ``until.steps`` as half a cosine. Samples come in
    shuffled passes, each of them once in each pass; ``validate_every`` steps are one ``fit``. A loss that is not finite
    ends the training, not the run: the best is still at hand.

    Args:
        net: the student; its output is logits.
        subset: the samples that the rows of ``targets`` are for, in their order.
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
        return {"distillation": loss(net(batch.inputs), table.rows(batch.ids).to(device))}

    best, best_accuracy, best_step = _copy(net), accuracy(net, validation), 0
    adam = torch.optim.Adam(trainable(net, subset.work.where), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, until.steps))
    passes = subset.passes(batch_size, subset.rng("passes"))
    for step in range(0, until.steps, until.validate_every):
        now = min(step + until.validate_every, until.steps)
        try:
            draws = [*islice(passes, (now - step) * subset.work.settings.accumulate)]
            fit(net, subset, distillation, optimizer=adam, draws=draws, after_step=schedule.step)
        except TrainingError:
            break
        if (now_accuracy := accuracy(net, validation)) > best_accuracy:
            best, best_accuracy, best_step = _copy(net), now_accuracy, now
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
