"""DGKD: a chain of teaching assistants, each taught by all above it, leads from large teachers to a small student."""

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
    Positive,
    Server,
    Settings,
    Strategy,
    TensorSpec,
)
from fedkd.experiment.algorithm.conditions import Idle, IfSet, Unless
from fedkd.experiment.algorithm.train import Batch, fit
from fedkd.losses import kd_loss
from fedkd.losses.distillers import Shown
from fedkd.methods.students import assistants as chain
from fedkd.methods.students import student as learner
from fedkd.methods.students.teachers import make_teachers, record, recorded_teachers
from fedkd.methods.students.teaching import RunNames, label_loss, weight_of_labels
from fedkd.nets import Net
from fedkd.targets import mean_probs

_LOGITS = frozenset({"logits"})


@final
@dataclass(frozen=True)
class DGKD(Strategy):
    """Assistants, then the student, learn one after the other from the teachers and all assistants before them.

    Paper: Son et al., "Densely Guided Knowledge Distillation using Multiple Teacher Assistants", ICCV 2021, arXiv
    2009.08825.
    What travels: as in ``multi_teacher``: each client's weights and buffers up, |θ_k| elements, or nothing where
    finished runs' nets teach; the student's down, |θ| elements, before its turn too.
    Teachers and samples are those of ``multi_teacher``; several teachers count as one, their mean probabilities. The
    rounds are shared out evenly: with A assistants the first trains in the first of A + 1 parts, the student in the
    last; who has had its turn is frozen. Loss: (1 - ``balance``) times the cross-entropy plus ``balance`` times the sum
    of the divergences from its guides, at every step without one of them, drawn at random, where it has several (the
    paper's stochastic DGKD).
    Deviations: a divergence is a mean over the batch; the code's, over elements, is C times smaller. A new optimiser a
    round.
    """

    teachers: RunNames = ()  # finished runs (DIR, DIR@ROUND or DIR@best), whose nets teach; default, the clients
    assistants: RunNames = ()  # names of nets, from large to small; without any it is plain distillation
    temperature: Positive = 5.0  # T of softened predictions
    balance: Annotated[float, Field(ge=0, le=1)] = 1.0  # of guides against labels; 1 in the code: no labels
    drop: bool = True  # whether each step leaves out one guide, drawn at random

    paper: ClassVar[str] = "Son et al., ICCV 2021, arXiv 2009.08825"
    sends: ClassVar[str] = "clients' nets up (or nothing), the student's weights and buffers down"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, uses=("server_net", "public_labels"))
    idle: ClassVar[Idle] = {
        "drop": (Unless(assistants=()), Unless(balance=0)),
        "temperature": (Unless(balance=0),),
        "public_labels": (Unless(balance=1),),
        "labels": (IfSet("teachers"),),
    }

    def check(self, experiment: Settings) -> None:
        """Public samples are for clients' nets only; assistants are known nets."""
        chain.check(self, experiment, self.teachers, self.assistants, balance=self.balance)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The student's initial weights."""
        return learner.first_broadcast(server, self.teachers)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A client's net, or nothing."""
        return learner.upload_schema(server, client, self.teachers)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Train and upload an own net; or, where a run's nets teach, only measure the student."""
        return learner.train_or_measure(client, broadcast, self.teachers)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The epochs of the net whose turn it is."""
        nets, data = chain.chain_of(server, self.assistants), learner.transfer_samples(server)
        turn = chain.whose_turn(server, self.assistants)
        teachers, clients = make_teachers(server, self.teachers, uploads, data, _LOGITS)
        before = recorded_teachers(record(nets[:turn], data, _LOGITS), data)
        label_weight = weight_of_labels(1 - self.balance, data)
        rng = server.rng("dropped guides")

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            shown, logits = Shown(batch.inputs, batch.labels, batch.ids), net(batch.inputs)
            together = mean_probs(torch.stack([one.logits for one in teachers(shown)]), temperature=self.temperature)
            guides = [together.logits(self.temperature), *(one.logits for one in before(shown))]
            if self.drop and len(guides) > 1:
                del guides[int(torch.randint(len(guides), (), generator=rng))]
            terms = torch.stack([kd_loss(logits, guide, temperature=self.temperature) for guide in guides])
            return {"distillation": self.balance * terms.sum()} | label_loss(logits, batch.labels, label_weight)

        if self.teachers or clients:
            server.report(fit(nets[turn], data, loss))
        return Knowledge.of("weights", nets[-1].state_dict())

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The student, and the assistants at the server; at a client that trains one, its own net."""
        return chain.chain_predictors(node, broadcast, self.teachers, self.assistants)
