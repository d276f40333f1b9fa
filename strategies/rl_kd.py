"""RL-KD: a policy for each teacher decides, sample by sample, whether the student learns from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
from fedkd.experiment.algorithm.train import Batch, Loss, Split, fit
from fedkd.losses.distillers import Shown
from fedkd.losses.precision import at_least_float32
from fedkd.methods.students import student as learner
from fedkd.methods.students.teachers import make_teachers, record
from fedkd.methods.students.teaching import RunNames, label_loss, weight_of_labels
from fedkd.nets import Net

_LOGITS = frozenset({"logits"})


@final
@dataclass(frozen=True)
class RLKD(Strategy):
    """For each sample teachers are drawn by learned chances; chances rise where the student then did better.

    Paper: Yuan et al., "Reinforced Multi-Teacher Selection for Knowledge Distillation", AAAI 2021, arXiv 2012.06048.
    What travels: as in ``multi_teacher``: each client's weights and buffers up, |θ_k| elements, or nothing where
    finished runs' nets teach; the student's down, |θ| elements. Policies stay at the server.
    Teachers and samples are those of ``multi_teacher``. At the start of a round, for sample i and teacher k, with f the
    student's features in unit length,
        chance_k(i) = sigmoid( v_k . [ f(i), softmax(z_k(i)), CE(z_k(i), y) ] + b_k )
    and who teaches is drawn once. The student then descends in its epochs
        label_weight CE(z_s, y) + weight times the mean over the drawn teachers of T^2 KL(z_k || z_s at T)
    and each sample is rewarded by -CE(z_s, y) - ``imitation`` T^2 KL(mean_k softmax(z_k / T) || softmax(z_s / T)), the
    paper's second reward. REINFORCE follows, an epoch of
        - advantage(i) sum_k log( chance of what was drawn for i and k )
    by the settings of [train]. The sample's reward is held against its own before the round, and the gains are brought
    to mean 0 and spread 1: that is the advantage. Where a sample has no label, the class of the teachers' mean stands
    for it in chances and rewards; the student's cross-entropy leaves the sample out.
    Deviations: of the paper the abstract and its usual statement were at hand. Its third reward adds the accuracy on a
    validation set, the same for all samples, which such an advantage does not feel. Its second has the drawn teachers
    in the divergence, of whom none is best: here it has all. The student does not first learn from all teachers. A
    sample for which nobody is drawn learns from its label alone. New optimisers each round.
    """

    teachers: RunNames = ()  # finished runs (DIR, DIR@ROUND or DIR@best), whose nets teach; default, the clients
    temperature: Positive = 4.0  # T of softened predictions
    weight: NonNegative = 1.0  # of the divergence from the drawn teachers
    label_weight: NonNegative = 1.0  # of the cross-entropy on labels
    imitation: NonNegative = 1.0  # of the divergence from all teachers, in the reward

    paper: ClassVar[str] = "Yuan et al., AAAI 2021, arXiv 2012.06048"
    sends: ClassVar[str] = "clients' nets up (or nothing), the student's weights and buffers down"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, uses=("server_net", "public_labels"))
    idle: ClassVar[Idle] = {
        "temperature": (Unless(weight=0, imitation=0),),
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
        """Draw teachers, train the student, reward, train the policies."""
        student, data = learner.student_net(server), learner.transfer_samples(server)
        teachers, clients = make_teachers(server, self.teachers, uploads, data, _LOGITS)
        if not (self.teachers or clients):
            return Knowledge.of("weights", student.state_dict())
        ids, labels = data.samples.indices, data.samples.labels[data.samples.indices]
        everything = Shown(torch.empty(0), labels, ids)
        said = torch.stack([one.logits for one in teachers(everything)])  # (K, M, C), as the policies see them
        labels = torch.where(labels >= 0, labels, said.softmax(2).mean(0).argmax(1))
        logits, features = self._record(student, data)
        before = rewards(logits, said, labels, temperature=self.temperature, imitation=self.imitation)
        states = policy_states(features, said, labels).to(server.device)  # (K, M, D + C + 1)
        policies = self._policies(server, student, clients or range(len(said)), states.shape[2])
        with torch.no_grad():
            chances = selection_scores(policies, states).sigmoid()  # (K, M)
        drawn = torch.rand(chances.shape, generator=server.rng("selection")).to(chances.device) < chances
        losses = fit(student, data, self._student_loss(said.to(server.device), drawn, data))
        logits, _ = self._record(student, data)
        after = rewards(logits, said, labels, temperature=self.temperature, imitation=self.imitation)
        advantage = standardised(after - before).to(server.device)

        def policy_loss(policies: nn.ModuleList, batch: Batch) -> dict[str, Tensor]:
            scores = selection_scores(policies, states[:, batch.positions])  # (K, B)
            chosen = drawn[:, batch.positions].float()
            surprise = F.binary_cross_entropy_with_logits(scores, chosen, reduction="none").sum(0)  # (B,)
            return {"policy": (advantage[batch.positions] * surprise).mean()}

        fit(policies, data, policy_loss, epochs=1)
        server.report({**losses, "selected": float(drawn.float().mean()), "reward": float(after.mean())})
        return Knowledge.of("weights", student.state_dict())

    def _record(self, student: Net, data: Split) -> tuple[Tensor, Tensor]:
        recorded = record([student], data, frozenset({"logits", "features"}))
        return recorded["0/logits"].clone(), recorded["0/features"].clone()  # clones, as inference's are

    def _student_loss(self, said: Tensor, drawn: Tensor, data: Split) -> Loss:
        label_weight = weight_of_labels(self.label_weight, data)

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            logits, places = net(batch.inputs), batch.positions
            taught = drawn_distillation(logits, said[:, places], drawn[:, places], temperature=self.temperature)
            return {"distillation": self.weight * taught} | label_loss(logits, batch.labels, label_weight)

        return loss

    def _policies(self, server: Server, student: Net, names: Sequence[int], width: int) -> nn.ModuleList:
        """A linear layer for each teacher, as its last training left it; at first all chances are a half."""
        places = [f"policy/{student.architecture}/{name}" for name in names]
        return nn.ModuleList(server.module(place, lambda: _undecided(width), keep=True) for place in places)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The student; at a client that trains one, its own net too."""
        return learner.student_predictors(node, broadcast, self.teachers)


def _undecided(width: int) -> nn.Linear:
    layer = nn.Linear(width, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


# ---- states, chances, rewards: K teachers, M samples


def policy_states(features: Tensor, said: Tensor, labels: Tensor) -> Tensor:
    """What a policy sees: the student's features (M, D) in unit length, its teacher's probabilities and cross-entropy.

    Args:
        features: (M, D) of the student.
        said: (K, M, C) logits of the teachers.
        labels: (M,) int64.

    Returns:
        (K, M, D + C + 1).
    """
    own = F.normalize(features, dim=1).expand(len(said), -1, -1)
    errors = F.cross_entropy(said.flatten(0, 1), labels.repeat(len(said)), reduction="none").view(len(said), -1, 1)
    return torch.cat([own, said.softmax(2), errors], dim=2)


def selection_scores(policies: nn.ModuleList, states: Tensor) -> Tensor:
    """The logits of the chances, (K, M), of states (K, M, S), each teacher's by its own policy."""
    return torch.cat([policy(own).T for policy, own in zip(policies, states, strict=True)])


def rewards(logits: Tensor, said: Tensor, labels: Tensor, *, temperature: float, imitation: float) -> Tensor:
    """-CE - imitation T² KL(the teachers' mean || student), sample by sample: of (M, C) and (K, M, C). (M,)

    >>> zeros = torch.zeros(1, 2)
    >>> rewards(zeros, zeros[None], torch.tensor([0]), temperature=1.0, imitation=1.0)  # -log 2
    tensor([-0.6931])
    """
    mean = (said / temperature).softmax(2).mean(0)
    divergence = F.kl_div((logits / temperature).log_softmax(1), mean, reduction="none").sum(1)
    return -F.cross_entropy(logits, labels, reduction="none") - imitation * temperature**2 * divergence


def standardised(gains: Tensor) -> Tensor:
    """Of mean 0 and spread 1; zeros where all are equal.

    >>> standardised(torch.tensor([1.0, 3.0])), standardised(torch.tensor([2.0, 2.0]))
    (tensor([-1.,  1.]), tensor([0., 0.]))
    """
    centred = gains - gains.mean()
    spread = gains.std(correction=0)
    return centred / spread if spread > 1e-6 else torch.zeros_like(centred)


def drawn_distillation(logits: Tensor, said: Tensor, drawn: Tensor, *, temperature: float) -> Tensor:
    """The mean over samples of the mean over their drawn teachers of T² KL(teacher || student); 0 where none is drawn.

    Args:
        logits: (B, C) of the student.
        said: (K, B, C) of the teachers.
        drawn: (K, B) bool.

    Returns:
        ().

    >>> student, said = torch.zeros(2, 2), torch.tensor([[[0.0, 3.0]] * 2, [[0.0, 0.0]] * 2]).log1p()
    >>> drawn = torch.tensor([[True, False], [True, False]])  # both for the first sample, nobody for the second
    >>> round(drawn_distillation(student, said, drawn, temperature=1.0).item(), 4)  # 0.1927 / 2 / 2
    0.0482
    """
    log_s = (at_least_float32(logits) / temperature).log_softmax(1)
    log_t = (at_least_float32(said) / temperature).log_softmax(2)  # (K, B, C)
    divergences = F.kl_div(log_s.expand_as(log_t), log_t, reduction="none", log_target=True).sum(2)  # (K, B)
    of_samples = (divergences * drawn).sum(0) / drawn.sum(0).clamp_min(1)
    return temperature**2 * of_samples.mean()
