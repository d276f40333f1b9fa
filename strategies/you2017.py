"""You et al. 2017: several teachers give their mean prediction, and vote on which samples are alike."""

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
from fedkd.experiment.algorithm.conditions import Idle, IfSet, Unless, WithLabels
from fedkd.experiment.algorithm.train import Batch, fit
from fedkd.losses import draw_triplets, relation_vote_loss, soft_cross_entropy
from fedkd.losses.distillers import Shown
from fedkd.methods.students import student as learner
from fedkd.methods.students.teachers import make_teachers
from fedkd.methods.students.teaching import RunNames, label_loss, weight_of_labels
from fedkd.nets import Net, features_of
from fedkd.targets import mean_probs

_NEEDS = frozenset({"logits", "features"})


@final
@dataclass(frozen=True)
class You2017(Strategy):
    """The server's net learns the teachers' mean probabilities, and by majority which of two samples is nearer a third.

    Paper: You et al., "Learning from Multiple Teacher Networks", KDD 2017.
    What travels: as in ``multi_teacher``: each client's weights and buffers up, |θ_k| elements, or nothing where
    finished runs' nets teach; the student's down, |θ| elements.
    Teachers and samples are those of ``multi_teacher``. Loss: cross-entropy where there are labels, plus ``weight``
    times the cross-entropy with the mean probabilities at ``temperature`` (times its square), plus ``relation_weight``
    times the hinge over triplets, one a sample, drawn anew each step.
    Deviations: the paper compares samples by distances between intermediate representations, layer by layer, and learns
    which of the teacher's layers goes with the student's; here there is one distance, of the features that the
    classifier sees, made unit vectors. The full text was not at hand: margin and weights are ours. Teachers whose
    number is even may tie: such a triplet teaches nothing. The optimiser is new each round.
    """

    teachers: RunNames = ()  # finished runs (DIR, DIR@ROUND or DIR@best), whose nets teach; default, the clients
    temperature: Positive = 4.0  # T of softened predictions
    weight: NonNegative = 1.0  # of the mean probabilities
    relation_weight: NonNegative = 1.0  # of the teachers' votes on which samples are alike
    margin: NonNegative = 0.3  # of squared distances between unit vectors
    label_weight: NonNegative = 1.0  # of the cross-entropy on labels

    paper: ClassVar[str] = "You et al., KDD 2017"
    sends: ClassVar[str] = "clients' nets up (or nothing), the student's weights and buffers down"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, uses=("server_net", "public_labels"))
    idle: ClassVar[Idle] = {
        "temperature": (Unless(weight=0),),
        "margin": (Unless(relation_weight=0),),
        "label_weight": (WithLabels(),),
        "labels": (IfSet("teachers"),),
    }

    def check(self, experiment: Settings) -> None:
        """Public samples are for clients' nets only."""
        learner.check(self, experiment, self.teachers)
        learner.check_lesson(experiment, guided=self.weight > 0, labels=self.label_weight > 0, key="weight")

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
        """The student's epochs."""
        student, data, rng = learner.student_net(server), learner.transfer_samples(server), server.rng("triplets")
        teachers, clients = make_teachers(server, self.teachers, uploads, data, _NEEDS)
        label_weight = weight_of_labels(self.label_weight, data)

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            own, theirs = net.outputs(batch.inputs), teachers(Shown(batch.inputs, batch.labels, batch.ids))
            target = mean_probs(torch.stack([one.logits for one in theirs]), temperature=self.temperature)
            soft = soft_cross_entropy(own.logits, target.values, temperature=self.temperature)
            features, triplets = [features_of(one) for one in theirs], draw_triplets(len(batch), rng)
            relations = relation_vote_loss(features_of(own), features, triplets, margin=self.margin)
            parts = {"distillation": self.weight * soft, "relations": self.relation_weight * relations}
            return parts | label_loss(own.logits, batch.labels, label_weight)

        if self.teachers or clients:
            server.report(fit(student, data, loss))
        return Knowledge.of("weights", student.state_dict())

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The student; at a client that trains one, its own net too."""
        return learner.student_predictors(node, broadcast, self.teachers)
