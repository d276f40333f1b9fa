"""AMTML-KD: each sample has its own mixture of teachers, learned by an adapter; beside it hints and relations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
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
from fedkd.experiment.algorithm.conditions import Idle, IfSet, Unless
from fedkd.experiment.algorithm.train import Batch, fit
from fedkd.losses import rkd_angle_loss, rkd_distance_loss
from fedkd.losses.distillers import Shown
from fedkd.losses.distillers.on_maps import partners
from fedkd.losses.precision import at_least_float32
from fedkd.losses.spatial import match_spatial
from fedkd.methods.students import student as learner
from fedkd.methods.students.teachers import example_outputs, make_teachers
from fedkd.methods.students.teaching import RunNames, label_loss, weight_of_labels
from fedkd.nets import Net, Outputs, features_of

Share = Annotated[float, Field(ge=0, le=1)]
#: Level of the student's map -> number of the teacher, number of its map, and the convolution from one to the other.
Hints = dict[int, tuple[int, int, nn.Module]]
_NEEDS = frozenset({"logits", "features", "maps"})


@final
@dataclass(frozen=True)
class AMTML(Strategy):
    """An adapter says for every sample how much each teacher counts; teachers share out the student's maps for hints.

    Paper: Liu et al., "Adaptive Multi-Teacher Multi-Level Knowledge Distillation", Neurocomputing 2020, arXiv
    2103.04062.
    What travels: as in ``multi_teacher``: each client's weights and buffers up, |θ_k| elements, or nothing where
    finished runs' nets teach; the student's down, |θ| elements. The adapter stays at the server.
    Teachers and samples are those of ``multi_teacher``. With f the student's features of a sample, t_k a vector of
    teacher k and w one of all, both learned:
        mu = softmax_k( w . (f * t_k) ),   q = sum_k mu_k softmax(z_k / T)
        (1 - balance) CE(z_s, y) + balance T^2 KL(q || softmax(z_s / T))
        + relation_weight (distance + angle of RKD between q and softmax(z_s / T)) + hint_weight sum_l hint_l
        + penalty (|w|^2 + sum_k |t_k|^2)
    hint_l is the mean square of a 1x1 convolution of the student's map l minus a teacher's map of the nearest size,
    each first of length 1 over channels; the maps are dealt out to the teachers in turn. The adapter learns in the
    first ``adapter_share`` of the rounds and is fixed afterwards; hints are given in those alone, as in the code. A
    client that comes later has a vector that learned nothing.
    Deviations: the code has twice the divergence, as a mean over elements: 2 / C of this one. Its cross-entropy is that
    of softened logits, and it compares logarithms of the student's probabilities with the target's probabilities in the
    relations; here CE is plain and like is held against like. mu is constant for the student; in the code its features
    feel how they weigh teachers. w starts sqrt(D) times smaller, else one teacher has all. The code's epochs, 80 for
    the adapter and 200 after, are the share of rounds. A new optimiser a round.
    """

    teachers: RunNames = ()  # finished runs (DIR, DIR@ROUND or DIR@best), whose nets teach; default, the clients
    temperature: Positive = 5.0  # T of softened predictions
    balance: Share = 0.7  # of the mixture of teachers against labels
    relation_weight: NonNegative = 1.0  # of distances and angles in the batch
    hint_weight: NonNegative = 1.0  # of the maps, of nets that have them
    penalty: NonNegative = 0.1  # on the adapter's squares
    adapter_share: Annotated[float, Field(gt=0, le=1)] = 0.3  # of the rounds, in which the adapter learns

    paper: ClassVar[str] = "Liu et al., Neurocomputing 2020, arXiv 2103.04062"
    sends: ClassVar[str] = "clients' nets up (or nothing), the student's weights and buffers down"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, uses=("server_net", "public_labels"))
    idle: ClassVar[Idle] = {
        "temperature": (Unless(balance=0, relation_weight=0),),
        "public_labels": (Unless(balance=1),),
        "labels": (IfSet("teachers"),),
    }

    def check(self, experiment: Settings) -> None:
        """Public samples are for clients' nets only."""
        learner.check(self, experiment, self.teachers)
        learner.check_lesson(experiment, guided=self.balance > 0, labels=self.balance < 1, key="balance")

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
        """The student's epochs; in the first rounds those of adapter and hints along with it."""
        student, data = learner.student_net(server), learner.transfer_samples(server)
        teachers, clients = make_teachers(server, self.teachers, uploads, data, _NEEDS)
        if not (self.teachers or clients):
            return Knowledge.of("weights", student.state_dict())
        adapting = server.round <= max(1, round(self.adapter_share * server.experiment.rounds))
        own, theirs = example_outputs(server, student, data, teachers)
        names = clients or range(len(theirs))
        adapters = [self._adapter(server, student, name) for name in names]
        width = student.feature_width
        shared = server.module(f"factor/{student.architecture}/all", lambda: Factor(width, width**-0.5), keep=True)
        hints = self._hints(server, student, names, own, theirs) if adapting and self.hint_weight else {}
        label_weight = weight_of_labels(1 - self.balance, data)

        def loss(nets: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
            own, theirs = student.outputs(batch.inputs), teachers(Shown(batch.inputs, batch.labels, batch.ids))
            said = torch.stack([one.logits for one in theirs])  # (K, B, C)
            factors = torch.stack([one.values for one in adapters])  # (K, D)
            mixture = teacher_shares(features_of(own), factors, shared.values)  # (K, B)
            target = mix(said, mixture if adapting else mixture.detach(), self.temperature)  # (B, C)
            log_s = (at_least_float32(own.logits) / self.temperature).log_softmax(1)
            divergence = F.kl_div(log_s, target, reduction="batchmean")
            parts = {"distillation": self.balance * self.temperature**2 * divergence}
            if self.relation_weight:
                parts["relations"] = self.relation_weight * (
                    rkd_distance_loss(log_s.exp(), target) + rkd_angle_loss(log_s.exp(), target)
                )
            if hints:
                parts["hints"] = self.hint_weight * hint_loss(own, theirs, hints)
            if adapting and self.penalty:
                parts["penalty"] = self.penalty * (shared.values.square().sum() + factors.square().sum())
            return parts | label_loss(own.logits, batch.labels, label_weight)

        learning = [student, *([*adapters, shared, *(one for *_, one in hints.values())] if adapting else [])]
        server.report(fit(nn.ModuleDict({str(n): module for n, module in enumerate(learning)}), data, loss))
        return Knowledge.of("weights", student.state_dict())

    def _adapter(self, server: Server, student: Net, name: int) -> Factor:
        """A teacher's vector, as its last training left it."""
        place = f"factor/{student.architecture}/{name}"
        return server.module(place, lambda: Factor(student.feature_width, 1.0), init="own", keep=True)

    def _hints(
        self, server: Server, student: Net, names: Sequence[int], own: Outputs, theirs: Sequence[Outputs]
    ) -> Hints:
        """For every map of the student whose it learns from: the teacher, its map, and the convolution between them."""
        with_maps = [k for k, one in enumerate(theirs) if one.maps]
        hints: Hints = {}
        for level in range(len(own.maps)) if with_maps else ():
            k = with_maps[level % len(with_maps)]
            partner = partners(own.activated, theirs[k].activated)[level][1]
            channels = own.maps[level].shape[1], theirs[k].maps[partner].shape[1]
            place = f"hint/{student.architecture}/{level}/{names[k]}"
            convolution = server.module(place, partial(nn.Conv2d, *channels, kernel_size=1, bias=False), keep=True)
            hints[level] = k, partner, convolution
        return hints

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The student; at a client that trains one, its own net too."""
        return learner.student_predictors(node, broadcast, self.teachers)


@final
class Factor(nn.Module):
    """A vector of D numbers that is learned, normal with this spread at the start."""

    def __init__(self, width: int, spread: float) -> None:
        super().__init__()
        self.values = nn.Parameter(spread * torch.randn(width))


def teacher_shares(features: Tensor, factors: Tensor, common: Tensor) -> Tensor:
    """How much each teacher counts for each sample: softmax over teachers of w . (f * t_k). Features are constants.

    Args:
        features: (B, D) of the student.
        factors: (K, D), a vector for each teacher.
        common: (D,).

    Returns:
        (K, B), columns that sum to one.

    >>> factors = torch.tensor([[0.0, 3.0], [0.0, 0.0]]).log1p()
    >>> teacher_shares(torch.eye(2), factors, torch.ones(2))
    tensor([[0.5000, 0.8000],
            [0.5000, 0.2000]])
    """
    scores = at_least_float32(features.detach()) @ (factors * common).T  # (B, K)
    return scores.softmax(1).T


def mix(logits: Tensor, shares: Tensor, temperature: float) -> Tensor:
    """The teachers' probabilities (B, C), of logits (K, B, C), in these shares (K, B)."""
    return (shares[:, :, None] * (at_least_float32(logits.detach()) / temperature).softmax(2)).sum(0)


def hint_loss(own: Outputs, theirs: Sequence[Outputs], hints: Hints) -> Tensor:
    """The sum over the student's maps of their mean squared distance from the teacher's map that each has. Scalar."""
    terms = []
    for level, (k, partner, convolution) in hints.items():
        mine, taught = match_spatial(own.activated[level], theirs[k].activated[partner].detach())
        difference = convolution(F.normalize(at_least_float32(mine))) - F.normalize(at_least_float32(taught))
        terms.append(difference.square().mean())
    return torch.stack(terms).sum()
