"""TAKD: teaching assistants between large teachers and a small student, each taught by the one before it alone."""

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
from fedkd.experiment.algorithm.train import Batch, Split, fit
from fedkd.losses import kd_loss
from fedkd.losses.distillers import Shown
from fedkd.methods.students import assistants as chain
from fedkd.methods.students import student as learner
from fedkd.methods.students.teachers import Teachers, make_teachers, record, recorded_teachers
from fedkd.methods.students.teaching import RunNames, label_loss, weight_of_labels
from fedkd.nets import Net
from fedkd.targets import mean_probs

_LOGITS = frozenset({"logits"})


@final
@dataclass(frozen=True)
class TAKD(Strategy):
    """The first assistant learns from the teachers, each later one from the one before, the student from the last.

    Paper: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020, arXiv 1902.03393.
    What travels: as in ``multi_teacher``: each client's weights and buffers up, |θ_k| elements, or nothing where
    finished runs' nets teach; the student's down, |θ| elements, before its turn too.
    Teachers and samples are those of ``multi_teacher``; several teachers count as one, their mean probabilities. The
    rounds are shared out evenly: with A assistants the first trains in the first of A + 1 parts, the student in the
    last; who has had its turn is frozen. After the first part clients' nets teach nobody any more, though they go on
    being trained and sent: with assistants, finished runs are the better teachers. Loss: (1 - ``balance``) times the
    cross-entropy plus ``balance`` T^2 KL(softmax(guide / T) || softmax(net / T)).
    ``dgkd`` has the same chain, where each learns from all above it.
    Deviations: the divergence is a mean over the batch; the authors' code averages over elements, C times less. It
    searches ``balance`` from 0.05 to 1 and T from 1 to 20 for each pair of nets, and goes on from the best epoch on the
    test set; here from the last round. A new optimiser a round.
    """

    teachers: RunNames = ()  # finished runs (DIR, DIR@ROUND or DIR@best), whose nets teach; default, the clients
    assistants: RunNames = ()  # names of nets, from large to small; without any it is plain distillation
    temperature: Positive = 5.0  # T of softened predictions
    balance: Annotated[float, Field(ge=0, le=1)] = 1.0  # of the guide against labels

    paper: ClassVar[str] = "Mirzadeh et al., AAAI 2020, arXiv 1902.03393"
    sends: ClassVar[str] = "clients' nets up (or nothing), the student's weights and buffers down"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, uses=("server_net", "public_labels"))
    idle: ClassVar[Idle] = {
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
        label_weight = weight_of_labels(1 - self.balance, data)
        guides = self._guides(server, uploads, data, nets[turn - 1] if turn else None)

        if guides is None:
            return Knowledge.of("weights", nets[-1].state_dict())

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            shown, logits = Shown(batch.inputs, batch.labels, batch.ids), net(batch.inputs)
            said = torch.stack([one.logits for one in guides(shown)])  # (K, B, C), of the teachers, or of one assistant
            guide = mean_probs(said, temperature=self.temperature).logits(self.temperature)
            distillation = kd_loss(logits, guide, temperature=self.temperature)
            return {"distillation": self.balance * distillation} | label_loss(logits, batch.labels, label_weight)

        server.report(fit(nets[turn], data, loss))
        return Knowledge.of("weights", nets[-1].state_dict())

    def _guides(
        self, server: Server, uploads: Mapping[int, Knowledge], data: Split, before: Net | None
    ) -> Teachers | None:
        """Whom a net learns from: the one before it in the chain, or the teachers, if there are any in this round."""
        if before is not None:
            return recorded_teachers(record([before], data, _LOGITS), data)
        teachers, clients = make_teachers(server, self.teachers, uploads, data, _LOGITS)
        return teachers if self.teachers or clients else None

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The student, and the assistants at the server; at a client that trains one, its own net."""
        return chain.chain_predictors(node, broadcast, self.teachers, self.assistants)
