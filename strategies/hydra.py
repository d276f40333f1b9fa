"""Hydra: one body with a head for each teacher, so that the student keeps how far its teachers disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import (
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    Peers,
    Positive,
    Predictor,
    Server,
    Settings,
    Strategy,
    TensorSpec,
    classifier,
    load,
)
from fedkd.base.errors import under
from fedkd.experiment.algorithm.conditions import Idle, IfSet
from fedkd.experiment.algorithm.train import Batch, fit, predict
from fedkd.losses import cross_entropy_loss, kd_loss
from fedkd.losses.distillers import Shown
from fedkd.methods.students import student as learner
from fedkd.methods.students.saved_nets import load_nets
from fedkd.methods.students.teachers import make_teachers
from fedkd.methods.students.teaching import RunNames
from fedkd.nets import Branched, check_branches
from fedkd.targets import mean_probs

_LOGITS = frozenset({"logits"})


@final
@dataclass(frozen=True)
class Hydra(Strategy):
    """First one head learns the teachers' mean; then each teacher gets a copy of it, which learns from this one alone.

    Paper: Tran et al., "Hydra: Preserving Ensemble Diversity for Model Distillation", 2020, arXiv 2001.04694.
    What travels: each client's weights and buffers up, |θ_k| elements, or nothing where finished runs' nets teach; the
    student's down: its body and K heads, |body| + K |head| elements.
    Teachers and samples are those of ``multi_teacher``, whose labels the student does not see. It is ``server_net`` cut
    in two: the trunk is the body, the rest and the classifier are a head. There is a head for each client, or for each
    net of the finished runs. With z_k the teachers' logits and h the heads',
        in the first ``together`` of the rounds:  T^2 KL(mean_k softmax(z_k / T) || softmax(h_1 / T))
        afterwards:                               mean_k T^2 KL(softmax(z_k / T) || softmax(h_k / T))
    The first head is the paper's Hinton head; all others are copies of it when the second part begins. A client that
    does not take part in a round leaves its head as it is, while the body moves on.
    ``accuracy`` is that of the mean of the heads' probabilities, the paper's prediction; ``peer_accuracies`` has each
    head's, ``agreement`` how far they agree.
    Deviations: where the body ends is for the net to say, and T = 1 for the paper's tempered form is ours. A new
    optimiser a round.
    """

    teachers: RunNames = ()  # finished runs (DIR, DIR@ROUND or DIR@best), whose nets teach; default, the clients
    temperature: Positive = 1.0  # T of softened predictions
    together: Annotated[float, Field(ge=0, lt=1)] = 0.5  # of the rounds, in which one head learns the mean

    paper: ClassVar[str] = "Tran et al. 2020, arXiv 2001.04694"
    sends: ClassVar[str] = "clients' nets up (or nothing), a body with heads down"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, uses=("server_net",))
    idle: ClassVar[Idle] = {"labels": (IfSet("teachers"),)}

    def check(self, experiment: Settings) -> None:
        """Public samples are for clients' nets only; the student can be cut."""
        learner.check(self, experiment, self.teachers)
        name = experiment.server_net or experiment.architectures[0]
        with under("server_net" if experiment.server_net else "nets"):
            check_branches(name, experiment.net_options.get(name, {}))

    def first_broadcast(self, server: Server) -> Knowledge:
        """The student's initial weights, and how many heads it has."""
        heads = len(server.clients)
        if self.teachers:
            with under("strategy.teachers"):
                heads = sum(len(load_nets(server, run)) for run in self.teachers)
        return self._sent(student_of(server, heads))

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A client's net, or nothing."""
        return learner.upload_schema(server, client, self.teachers)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Train and upload an own net; or, where a run's nets teach, only measure the student."""
        if not self.teachers:
            return learner.train_or_measure(client, broadcast, ())
        data, student = client.train.labelled(), received(client, broadcast)
        logits = predict(lambda inputs: mean_of_heads(student(inputs)), data.samples, data.work)
        loss = float(cross_entropy_loss(logits, data.samples.labels[data.samples.indices]))
        return Knowledge(weight=len(data), metrics={"cross_entropy": loss, "loss": loss})

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The epochs of the body with the first head, or with those whose teachers are here."""
        student, data = student_of(server), learner.transfer_samples(server)
        teachers, clients = make_teachers(server, self.teachers, uploads, data, _LOGITS)
        if not (self.teachers or clients):
            return self._sent(student)
        united = server.round <= self.together * server.experiment.rounds
        heads = [0] if united else list(clients or range(len(student.tails)))

        def loss(student: Branched, batch: Batch) -> dict[str, Tensor]:
            own = logits_of_heads(student, batch, heads)
            said = [one.logits for one in teachers(Shown(batch.inputs, batch.labels, batch.ids))]
            if united:
                said = [mean_probs(torch.stack(said), temperature=self.temperature).logits(self.temperature)]
            pairs = zip(own, said, strict=True)
            terms = [kd_loss(mine, theirs, temperature=self.temperature) for mine, theirs in pairs]
            return {"distillation": torch.stack(terms).mean()}

        server.report(fit(student, data, loss))
        if united:
            copy_first_head(student)
        return self._sent(student)

    def _sent(self, student: Branched) -> Knowledge:
        return Knowledge.of("weights", student.state_dict(), header={"heads": len(student.tails)})

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        """The mean of the heads, then each of them; at a client that trains one, its own net too."""
        student = received(node, broadcast)
        whole = {"student": Classifier(lambda inputs: mean_of_heads(student(inputs))), "heads": Peers(student)}
        own = not (self.teachers or isinstance(node, Server))
        return {**whole, **({"main": classifier(node.net(init="own", keep=True))} if own else {})}


# ---- a body with heads


def student_of(node: Node, heads: int = 0) -> Branched:
    """The student, kept at the server: at the start all heads are equal. Without a number, as many as were made."""
    architecture = node.experiment.server_net or node.experiment.architectures[0]

    def build() -> Branched:
        student = Branched([node.fresh_net(architecture=architecture) for _ in range(heads)])
        copy_first_head(student)
        return student

    if isinstance(node, Server):
        heads = heads or int(node.memory.get("heads", 0))
        node.memory["heads"] = heads
    return node.module("student", build, keep=isinstance(node, Server))


def received(node: Node, broadcast: Knowledge) -> Branched:
    """The student that was broadcast, in eval mode."""
    student = student_of(node, int(broadcast.header["heads"]))
    load(student, broadcast.tensors)
    return student.eval()


def copy_first_head(student: Branched) -> None:
    """All heads become what the first one is."""
    for parts in (student.tails, student.classifiers):
        first = {name: tensor.clone() for name, tensor in parts[0].state_dict().items()}
        for part in parts[1:]:
            part.load_state_dict(first)


def logits_of_heads(student: Branched, batch: Batch, heads: list[int]) -> list[Tensor]:
    """(B, C) of each of these heads; the others do not run, so that no batch statistics of theirs move."""
    held = student.map_of(batch.inputs)
    return [student.classifiers[head](student.tails[head](held)) for head in heads]


def mean_of_heads(logits: Tensor) -> Tensor:
    """The mean of the heads' probabilities, as logits: (K, B, C) -> (B, C).

    >>> mean_of_heads(torch.tensor([[[0.0, 3.0]], [[3.0, 0.0]]]).log1p()).exp()
    tensor([[0.5000, 0.5000]])
    """
    return mean_probs(logits).logits()
