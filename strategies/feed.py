"""FEED: a student's last feature map learns from those of several teachers at once, through a translator for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd import (
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
    Strategy,
    TensorSpec,
)
from fedkd.experiment.algorithm.conditions import Idle, IfSet, Unless, WithLabels
from fedkd.experiment.algorithm.train import Batch, fit
from fedkd.losses import kd_loss
from fedkd.losses.distillers import Shown
from fedkd.losses.precision import at_least_float32
from fedkd.losses.spatial import match_spatial
from fedkd.methods.students import student as learner
from fedkd.methods.students.teachers import example_outputs, make_teachers
from fedkd.methods.students.teaching import RunNames, label_loss, weight_of_labels
from fedkd.nets import Net, Outputs, features_of
from fedkd.targets import mean_probs

_NEEDS = frozenset({"logits", "features", "maps"})


@final
@dataclass(frozen=True)
class FEED(Strategy):
    """Each teacher has a translator of its own, which makes its last map of the student's; all pull at once.

    Paper: Park and Kwak, "Feature-Level Ensemble Knowledge Distillation for Aggregating Knowledge from Multiple
    Networks", ECAI 2020, arXiv 1909.10754: its parallel form, pFEED.
    What travels: as in ``multi_teacher``: each client's weights and buffers up, |θ_k| elements, or nothing where
    finished runs' nets teach; the student's down, |θ| elements. Translators stay at the server.
    Teachers and samples are those of ``multi_teacher``. Loss, with F_k a teacher's last map and F_s the student's:
        CE(z_s, y) + weight sum_k mean | translator_k(F_s) / ||.|| - F_k / ||F_k|| |
        + logit_weight T^2 KL(mean_k softmax(z_k / T) || softmax(z_s / T))
    A map is flattened and brought to length 1 for each sample. The last term is ours: public samples without labels
    say nothing to the student's classifier but by it; 0 is the paper's loss.
    Deviations: of the paper the abstract was at hand. A translator has three 3x3 convolutions with BatchNorm and ReLU
    between them, its authors' earlier ones of factor transfer, and ``weight`` is ours. The larger of two maps is
    averaged down to the smaller; of nets without maps the features count, as a map of one place. The sequential form,
    in which a student teaches the next, is ``born_again`` with maps, and is not here. A new optimiser a round.
    """

    teachers: RunNames = ()  # finished runs (DIR, DIR@ROUND or DIR@best), whose nets teach; default, the clients
    weight: NonNegative = 100.0  # of the distances between maps, summed over teachers
    logit_weight: NonNegative = 1.0  # of the teachers' mean probabilities; 0 in the paper, which has labels
    temperature: Positive = 4.0  # T of softened predictions
    label_weight: NonNegative = 1.0  # of the cross-entropy on labels

    paper: ClassVar[str] = "Park and Kwak, ECAI 2020, arXiv 1909.10754"
    sends: ClassVar[str] = "clients' nets up (or nothing), the student's weights and buffers down"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, uses=("server_net", "public_labels"))
    idle: ClassVar[Idle] = {
        "temperature": (Unless(logit_weight=0),),
        "label_weight": (WithLabels(),),
        "labels": (IfSet("teachers"),),
    }

    def check(self, experiment: Settings) -> None:
        """Public samples are for clients' nets only; something must teach the classifier."""
        learner.check(self, experiment, self.teachers)
        learner.check_lesson(experiment, guided=self.logit_weight > 0, labels=self.label_weight > 0, key="logit_weight")
        if experiment.train.batch_size < 2:  # translators of nets without maps normalise over the batch alone
            raise InputError("train.batch_size: FEED needs statistics of a batch: set it to 2 or more")

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
        """The student's epochs, its translators' along with it."""
        student, data = learner.student_net(server), learner.transfer_samples(server)
        teachers, clients = make_teachers(server, self.teachers, uploads, data, _NEEDS)
        if not (self.teachers or clients):
            return Knowledge.of("weights", student.state_dict())
        own, theirs = example_outputs(server, student, data, teachers)
        shapes = [(last_map(own).shape[1], last_map(one).shape[1]) for one in theirs]
        translators = self._translators(server, student, clients or range(len(theirs)), shapes)
        label_weight = weight_of_labels(self.label_weight, data)

        def loss(nets: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
            shown, own = Shown(batch.inputs, batch.labels, batch.ids), student.outputs(batch.inputs)
            theirs = teachers(shown)
            parts = {}
            if self.weight:
                pairs = zip(translators.values(), theirs, strict=True)
                terms = [map_distance(translate(last_map(own)), last_map(one)) for translate, one in pairs]
                parts["maps"] = self.weight * torch.stack(terms).sum()
            if self.logit_weight:
                said = torch.stack([one.logits for one in theirs])  # (K, B, C)
                mean = mean_probs(said, temperature=self.temperature).logits(self.temperature)
                parts["distillation"] = self.logit_weight * kd_loss(own.logits, mean, temperature=self.temperature)
            return parts | label_loss(own.logits, batch.labels, label_weight)

        server.report(fit(nn.ModuleDict({"student": student, "translators": translators}), data, loss))
        return Knowledge.of("weights", student.state_dict())

    def _translators(
        self, server: Server, student: Net, names: Sequence[int], shapes: Sequence[tuple[int, int]]
    ) -> nn.ModuleDict:
        """One for each teacher, as its last training left it."""
        made = {
            str(name): server.module(
                f"translator/{student.architecture}/{name}", partial(Translator, *shape), keep=True
            )
            for name, shape in zip(names, shapes, strict=True)
        }
        return nn.ModuleDict(made)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The student; at a client that trains one, its own net too."""
        return learner.student_predictors(node, broadcast, self.teachers)


@final
class Translator(nn.Sequential):
    """Three 3x3 convolutions from the student's channels to a teacher's: (B, c, h, w) -> (B, c', h, w)."""

    def __init__(self, own: int, taught: int) -> None:
        def convolution(before: int) -> nn.Conv2d:
            return nn.Conv2d(before, taught, 3, padding=1)

        between = [nn.BatchNorm2d(taught), nn.ReLU()], [nn.BatchNorm2d(taught), nn.ReLU()]
        super().__init__(convolution(own), *between[0], convolution(taught), *between[1], convolution(taught))


def last_map(outputs: Outputs) -> Tensor:
    """The last map after its ReLU, (B, c, h, w); of a net without maps its features, (B, D, 1, 1)."""
    return outputs.activated[-1] if outputs.maps else features_of(outputs)[:, :, None, None]


def map_distance(own: Tensor, taught: Tensor) -> Tensor:
    """The mean absolute difference of two maps, each flattened and of length 1 for each sample. Scalar.

    >>> map_distance(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[8.0, 6.0]]]])).item()  # (.6, .8), (.8, .6)
    0.19999998807907104
    """
    own, taught = match_spatial(at_least_float32(own), at_least_float32(taught.detach()))
    return F.l1_loss(F.normalize(own.flatten(1), dim=1), F.normalize(taught.flatten(1), dim=1))
