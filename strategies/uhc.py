"""UHC: a student over all classes learns from teachers that know some of them each, without a label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from fedkd import (
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Positive,
    Server,
    Settings,
    Strategy,
    TensorSpec,
)
from fedkd.experiment.algorithm.conditions import Idle, IfSet
from fedkd.experiment.algorithm.train import Batch, fit
from fedkd.losses import unify_loss
from fedkd.losses.distillers import Shown
from fedkd.methods.students import student as learner
from fedkd.methods.students.teachers import CLASSES, SETS, beside_logits, make_teachers
from fedkd.methods.students.teaching import RunNames, label_loss
from fedkd.nets import Net
from fedkd.targets import vote, votes

_NEEDS = frozenset({"logits", SETS})


@final
@dataclass(frozen=True)
class UHC(Strategy):
    """The server's net agrees with each teacher about the classes that this one knows, and so comes to know them all.

    Paper: Vongkulbhisal et al., "Unifying Heterogeneous Classifiers with Distillation", CVPR 2019, arXiv 1904.06062:
    its form by back-propagation, CE-BP.
    What travels: each client's weights and buffers up, |θ_k| elements, and which classes it has samples of, C bytes; or
    nothing where finished runs' nets teach. The student's down, |θ| elements.
    Teachers are those of ``multi_teacher``, and may be of other architectures; those of a finished run may have been
    trained on some of this run's classes only. The student learns on the public samples, without labels, or on the
    training samples of all clients where a finished run teaches and there are none. With q the student's probabilities
    and p_k a teacher's over the classes L_k that it knows, both at T, the student descends
        T^2 mean_b sum_k sum_{c in L_k} p_k(c) log( p_k(c) / q(c | L_k) ),   q(c | L) = q(c) / sum_{j in L} q(j)
    What a teacher that knows a few classes says of a sample of another one is noise about those few: nobody says how
    much of q they ought to have in all. It takes classes that teachers share to compare the rest. The paper's CE-X
    solves the same problem for each sample first: target "unify" of ``multi_teacher``.
    Beside it there may be the teachers' vote, which is ours: each names a class that it knows, and ``vote_weight``
    times the cross-entropy with the class of most votes is added, of the samples where one class has most. Who knows
    the class of a sample names it, others scatter. It helps where groups of teachers share no class, which the sum
    above never compares; where all are joined it costs.
    Deviations: of the paper the abstract and the formulas were at hand, and not its settings. Clients' nets have an
    output for every class, and those of classes they lack are not read. A new optimiser a round.
    """

    teachers: RunNames = ()  # finished runs (DIR, DIR@ROUND or DIR@best), whose nets teach; default, the clients
    temperature: Positive = 1.0  # T of softened predictions
    vote_weight: NonNegative = 0.0  # of the cross-entropy with the class that most teachers name

    paper: ClassVar[str] = "Vongkulbhisal et al., CVPR 2019, arXiv 1904.06062"
    sends: ClassVar[str] = "clients' nets and their classes up (or nothing), the student's weights and buffers down"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, uses=("server_net",))
    idle: ClassVar[Idle] = {"labels": (IfSet("teachers"),)}

    def check(self, experiment: Settings) -> None:
        """Public samples are for clients' nets only."""
        learner.check(self, experiment, self.teachers)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The student's initial weights."""
        return learner.first_broadcast(server, self.teachers, some_classes=True)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A client's net and its classes, or nothing."""
        return learner.upload_schema(server, client, self.teachers, name_classes=True)

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """A teacher knows some class."""
        if not self.teachers and not upload.tensors[CLASSES].any():
            raise ValueError("it says that it has samples of no class")

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Train and upload an own net; or, where a run's nets teach, only measure the student."""
        return learner.train_or_measure(client, broadcast, self.teachers, name_classes=True)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The student's epochs."""
        student, data = learner.student_net(server), learner.transfer_samples(server)
        teachers, clients = make_teachers(server, self.teachers, uploads, data, _NEEDS)
        if not (self.teachers or clients):
            return Knowledge.of("weights", student.state_dict())
        sound = {client: uploads[client] for client in clients}
        known: Tensor = beside_logits(server, self.teachers, sound, _NEEDS)[SETS].to(server.device)  # (K, C)

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            shown, logits = Shown(batch.inputs, batch.labels, batch.ids), net(batch.inputs)
            said = torch.stack([one.logits for one in teachers(shown)])  # (K, B, C)
            distillation = unify_loss(logits, said, known, temperature=self.temperature)
            named = voted_labels(said, known)
            return {"distillation": distillation} | label_loss(logits, named, self.vote_weight, part="votes")

        server.report(fit(student, data, loss))
        return Knowledge.of("weights", student.state_dict())

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The student; at a client that trains one, its own net too."""
        return learner.student_predictors(node, broadcast, self.teachers)


def voted_labels(logits: Tensor, known: Tensor) -> Tensor:
    """The class that most teachers name, each of those it knows; -1 where no class has most. (B,) int64

    Args:
        logits: (K, B, C).
        known: (K, C) bool.

    >>> said = torch.tensor([[[2.0, 0.0, 9.0]], [[1.0, 3.0, 2.0]], [[4.0, 1.0, 0.0]]])  # the first knows no class 2
    >>> voted_labels(said, torch.tensor([[True, True, False], [True, True, True], [True, True, True]]))
    tensor([0])
    >>> voted_labels(said[:2], torch.tensor([[True, True, False], [True, True, True]]))
    tensor([-1])
    """
    said = logits.masked_fill(~known[:, None], -torch.inf)
    counts = votes(said)  # (B, C)
    alone = (counts == counts.amax(1, keepdim=True)).sum(1) == 1
    return torch.where(alone, vote(said).probabilities().argmax(1), -1)
