"""Tf-KD self-training: a net learns from labels and from a net of its own kind that was trained before."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import (
    Batch,
    Classifier,
    Client,
    InputError,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Positive,
    Server,
    Settings,
    Share,
    Strategy,
    TensorSpec,
    classifier,
    fit,
)
from fedkd.aggregate import weighted_mean
from fedkd.base.errors import Notice
from fedkd.experiment.algorithm.conditions import Idle, IfSet, Unless
from fedkd.experiment.algorithm.step import make_optimizer
from fedkd.losses import kd_loss
from fedkd.methods.architecture_groups import weights_schema
from fedkd.methods.frozen_nets import TEACHER, frozen_net, student_tensors, tensors_under, with_teacher
from fedkd.methods.public_distillation import train_on_labels
from fedkd.methods.students.saved_nets import load_nets
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class TfKDSelf(Strategy):
    """The teacher is a net of the same kind: of a finished run, or of this run's first rounds; the student starts anew.

    Paper: Yuan et al., "Revisiting Knowledge Distillation via Label Smoothing Regularization", CVPR 2020, arXiv
    1909.11723, Tf-KD_self; formula and numbers are those of its official code.
    What travels: weights and buffers, |θ| elements up and down; with a teacher its own too, as much again down, but for
    the round in which the student begins: there the net received is the teacher.
        teacher:  CE(z, y) for the first ``pretraining`` of the rounds, or the net of the run that ``teacher`` names
        student:  (1 - alpha) CE(z, y) + alpha scale T^2 KL(softmax(teacher / T) || softmax(z / T))
    With one client it is the paper, with more both are trained as in FedAvg. The student's fresh weights do not travel:
    all draw the same. ``teacher = "DIR@7"`` or ``"DIR@best"`` takes the net of a round that the run kept: a teacher who
    was stopped early. Learning rates of [train] run their schedule over the rounds of the teacher, and again over those
    of the student. The teacher is in eval mode. ``accuracy`` is that of the net that is trained.
    Defaults are the code's for a ResNet-18: alpha = 0.95, T = 6. There the divergence is a mean over B C elements,
    times 50: with 100 classes, scale = 0.5 of ours, which is a mean over the batch.
    Deviations: a new optimiser each round. The teacher that is made by hand (Tf-KD_reg) is a loss, ``tfkd_reg_loss``.
    """

    teacher: str = ""  # finished run (DIR, DIR@ROUND or DIR@best) whose one net teaches; default, the first rounds' net
    pretraining: Annotated[float, Field(ge=0, lt=1)] = 0.5  # share of the rounds in which the teacher is trained
    alpha: Share = 0.95  # of the teacher against the labels
    temperature: Positive = 6.0  # T of softened predictions
    scale: NonNegative = 0.5  # of the divergence; the code's multiplier over the number of classes

    paper: ClassVar[str] = "Yuan et al., CVPR 2020, arXiv 1909.11723"
    sends: ClassVar[str] = "weights and buffers both ways, the teacher's down"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    outlives_its_round: ClassVar[bool] = False  # a late net may be the teacher
    idle: ClassVar[Idle] = {
        "pretraining": (IfSet("teacher"),),
        "temperature": (Unless(alpha=0), Unless(scale=0)),
        "scale": (Unless(alpha=0),),
    }

    def check(self, experiment: Settings) -> None:
        """With one round nobody is taught."""
        super().check(experiment)
        if experiment.rounds == 1 and not self.teacher:
            told = "rounds = 1 is the teacher's: no student is taught, and this is FedAvg: set it to 2 or more"
            warnings.warn(told, Notice, stacklevel=2)

    def _pretraining(self, node: Node) -> int:
        """How many rounds train the teacher, where it is not a finished run's: at least one, and not all of several."""
        rounds = node.experiment.rounds
        return 0 if self.teacher else max(1, min(round(self.pretraining * rounds), rounds - 1))

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights, with the teacher if it is there already."""
        net = server.net()
        start = Knowledge.of("weights", net.state_dict(), header={"taught": int(bool(self.teacher))})
        server.memory.store(TEACHER, teacher_of(server, self.teacher, net) if self.teacher else start.tensors)
        return with_teacher(start, server.memory.under(TEACHER)) if self.teacher else start

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """One net; the teacher stays where it is."""
        return weights_schema(server, client)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of the teacher, then of the student, which starts from fresh weights."""
        before, rounds = self._pretraining(client), client.experiment.rounds
        taught, data = client.round > before, client.train.labelled()
        start, teaching = student_tensors(broadcast), tensors_under(broadcast, TEACHER)
        if taught and not broadcast.header["taught"]:
            start, teaching = client.module("student", client.fresh_net).state_dict(), start
        lr = client.experiment.train.lr_at(client.round - before * taught, rounds - before if taught else before)
        net = client.net(weights=start)
        optimizer = make_optimizer(net, client.work(), lr=lr)

        def loss(net: Net, batch: Batch, teacher: Net) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (B, C)
            with torch.no_grad():
                target = teacher(batch.inputs)
            distillation = kd_loss(logits, target, temperature=self.temperature)
            return {
                "cross_entropy": (1 - self.alpha) * batch.cross_entropy(logits),
                "distillation": self.alpha * self.scale * distillation,
            }

        if taught:
            losses = fit(net, data, loss, given=(frozen_net(client, "teacher", teaching),), optimizer=optimizer)
        else:
            losses = train_on_labels(net, data, optimizer=optimizer)
        metrics = {**losses, "distillation_weight": self.alpha * self.scale * taught}
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=metrics)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean: the teacher as it is, or the student with its teacher beside it."""
        mean, before = weighted_mean(uploads), self._pretraining(server)
        if server.round > before:
            return with_teacher(mean.with_header(taught=1), server.memory.under(TEACHER))
        server.memory.store(TEACHER, mean.tensors)
        return mean.with_header(taught=0)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The net that is trained now, at the server and at every client."""
        return {"main": classifier(frozen_net(node, "evaluated", student_tensors(broadcast)))}


def teacher_of(server: Server, run: str, own: Net) -> dict[str, Tensor]:
    """The weights of a run's one net, which must be of this run's kind and take its samples as they are.

    Raises:
        InputError: there is no such run, or it has several nets, or another one.
    """
    nets = load_nets(server, run)
    if len(nets) != 1:
        raise InputError(
            f"strategy.teacher: {run} has {len(nets)} nets, and one teaches: take a run of fedavg or centralised"
        )
    (net,) = nets.values()
    weights: dict[str, Tensor] = net.state_dict()
    if {name: each.shape for name, each in weights.items()} != {
        name: each.shape for name, each in own.state_dict().items()
    }:
        raise InputError(
            f"strategy.teacher: the net of {run} is no {own.architecture!r} for this run's classes and inputs: one "
            "with the same nets, net_options and data can teach; or take multi_teacher"
        )
    return weights
