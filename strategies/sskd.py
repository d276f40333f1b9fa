"""SSKD: a student imitates its teachers on rotated images too, and how they recognise an image after rotation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
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
    Table,
    TensorSpec,
)
from fedkd.base.inputs import Inputs
from fedkd.experiment.algorithm.conditions import Idle, IfSet, Unless, WithLabels
from fedkd.experiment.algorithm.train import Batch, Split, fit, predict
from fedkd.losses import SSKDLoss, rotations
from fedkd.losses.distillers import Shown
from fedkd.methods.students import student as learner
from fedkd.methods.students.teachers import Teachers, make_teachers
from fedkd.methods.students.teaching import RunNames, label_loss, weight_of_labels
from fedkd.nets import Net, features_of

Share = Annotated[float, Field(ge=0, le=1)]
#: What a teacher says of the samples of a batch, each turned four times: logits (4B, C), features (4B, D).
Said = tuple[Tensor, Tensor]
_NEEDS = frozenset({"logits", "features"})
_TURNS = 4


@final
@dataclass(frozen=True)
class SSKD(Strategy):
    """What teachers say of images turned by 0, 90, 180 and 270 degrees, and which they know again, is taught.

    Paper: Xu et al., "Knowledge Distillation Meets Self-Supervision", ECCV 2020, arXiv 2006.07114.
    What travels: as in ``multi_teacher``: each client's weights and buffers up, |θ_k| elements, or nothing where
    finished runs' nets teach; the student's down, |θ| elements. Heads stay at the server.
    Teachers and samples are those of ``multi_teacher``; images must be square. Of a batch of B images the student sees
    4 B. ``losses.SSKDLoss`` has the terms: kd on upright and tf on rotated images, and ss, where a head on the features
    of either net tells rotated images of the batch apart. A teacher's head is trained before the student, for
    ``head_epochs``: once for finished runs' nets, each round anew for clients', which change, from where it was.
        label_weight CE + kd_weight kd + tf_weight tf + ss_weight ss, the mean over teachers of the last three
    Defaults are those of the official code, where the head has 60 epochs.
    Deviations: tf leaves out what the teacher gets most wrong, which takes a label: where a sample has none, the
    teacher's class of the upright image stands for it. With several teachers the student has a head for each. Images
    are not cropped, so teachers answer once a round and are looked up. One optimiser, new each round.
    """

    teachers: RunNames = ()  # finished runs (DIR, DIR@ROUND or DIR@best), whose nets teach; default, the clients
    label_weight: NonNegative = 0.1  # of the cross-entropy on labels, of upright images
    kd_weight: NonNegative = 0.9  # of the teachers' predictions of upright images
    tf_weight: NonNegative = 2.7  # of those of rotated images
    ss_weight: NonNegative = 10.0  # of which image a rotated one is taken for
    temperature: Positive = 4.0  # T of softened predictions
    ss_temperature: Positive = 0.5  # T of softened cosines
    tf_ratio: Share = 1.0  # of the rotated images that the teacher classifies wrongly, how many teach
    ss_ratio: Share = 0.75  # of those that it takes for another image, how many teach
    head_epochs: Annotated[int, Field(ge=1)] = 10  # of a teacher's head before the student learns; 60 in the paper

    paper: ClassVar[str] = "Xu et al., ECCV 2020, arXiv 2006.07114"
    sends: ClassVar[str] = "clients' nets up (or nothing), the student's weights and buffers down"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, images=True, uses=("server_net", "public_labels"))
    idle: ClassVar[Idle] = {
        "label_weight": (WithLabels(),),
        "temperature": (Unless(kd_weight=0, tf_weight=0),),
        "tf_ratio": (Unless(tf_weight=0),),
        **dict.fromkeys(("ss_temperature", "ss_ratio", "head_epochs"), (Unless(ss_weight=0),)),
        "labels": (IfSet("teachers"),),
    }

    def check(self, experiment: Settings) -> None:
        """Public samples are for clients' nets only; something is taught."""
        learner.check(self, experiment, self.teachers)
        if not (self.kd_weight or self.tf_weight or self.ss_weight):
            raise InputError("strategy: with kd_weight, tf_weight and ss_weight of 0 SSKD teaches nothing: raise one")

    def check_samples(self, node: Node) -> None:
        """Images that a quarter turn leaves in shape."""
        shape = node.federation.source.shape
        if isinstance(shape, tuple) and shape[-1] != shape[-2]:
            raise InputError(f"strategy: SSKD turns images, and these are {shape}, not square: take other data")

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
        """The epochs of the teachers' heads, then the student's."""
        student, data = learner.student_net(server), learner.transfer_samples(server)
        teachers, clients = make_teachers(server, self.teachers, uploads, data, _NEEDS, augmented=True)
        if not (self.teachers or clients):
            return Knowledge.of("weights", student.state_dict())
        table, widths = record_turned(teachers, data)
        losses = self._losses(server, student, clients or range(len(widths)), widths)
        if self.ss_weight and ("heads" not in server.memory or not self.teachers):
            train_heads(losses, table, widths, data, self.head_epochs)
            server.memory["heads"] = 1
        label_weight = weight_of_labels(self.label_weight, data)
        terms = {"kd": self.kd_weight, "tf": self.tf_weight, "ss": self.ss_weight}

        def loss(nets: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
            own = student.outputs(turned(batch.inputs))
            said = look_up(table, widths, batch, data.samples.classes)
            parts: dict[str, list[Tensor]] = {}
            for one, (logits, features) in zip(losses.values(), said, strict=True):
                labels = torch.where(batch.labels >= 0, batch.labels, logits[::_TURNS].argmax(1))
                for name, part in one.parts(own.logits, features_of(own), logits, features, labels).items():
                    parts.setdefault(name, []).append(part)
            weighed = {n: terms[n] * torch.stack(each).mean() for n, each in parts.items() if terms[n]}
            return weighed | label_loss(own.logits[::_TURNS], batch.labels, label_weight)

        heads = nn.ModuleDict({name: one.student_head for name, one in losses.items()})
        server.report(fit(nn.ModuleDict({"student": student, "heads": heads}), data, loss))
        return Knowledge.of("weights", student.state_dict())

    def _losses(self, server: Server, student: Net, names: Sequence[int], widths: Sequence[int]) -> dict[str, SSKDLoss]:
        """One for each teacher, its heads as their last training left them."""

        def made(width: int) -> SSKDLoss:
            return SSKDLoss(
                student.feature_width,
                width,
                kd_temperature=self.temperature,
                tf_temperature=self.temperature,
                ss_temperature=self.ss_temperature,
                tf_ratio=self.tf_ratio,
                ss_ratio=self.ss_ratio,
            )

        return {
            str(name): server.module(f"sskd/{student.architecture}/{name}", partial(made, width), keep=True)
            for name, width in zip(names, widths, strict=True)
        }

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The student; at a client that trains one, its own net too."""
        return learner.student_predictors(node, broadcast, self.teachers)


# ---- what teachers say of images that are turned


def turned(inputs: Inputs) -> Tensor:
    """Images (B, c, h, h), each four times, as ``losses.rotations`` has them: (4B, c, h, h)."""
    assert isinstance(inputs, Tensor)
    return rotations(inputs)


def record_turned(teachers: Teachers, data: Split) -> tuple[Table, list[int]]:
    """All teachers' logits and features of every sample in four turns, by its id; and the widths of the features."""
    widths: list[int] = []

    def said(inputs: Inputs) -> Tensor:
        outputs = teachers(Shown(turned(inputs), torch.empty(0), torch.empty(0)))
        widths[:] = [features_of(one).shape[1] for one in outputs]
        both = [torch.cat([one.logits.float(), features_of(one).float()], dim=1) for one in outputs]
        rows = torch.cat(both, dim=1)  # (4B, the sum of C + D)
        return rows.view(-1, _TURNS, rows.shape[1])

    rows = predict(said, data.samples, data.work)
    return Table(data.samples.indices, rows.clone()), widths


def look_up(table: Table, widths: Sequence[int], batch: Batch, classes: int) -> list[Said]:
    """What each teacher says of a batch, image by image in its four turns."""
    rows = table.rows(batch.ids).to(batch.labels.device).flatten(0, 1)  # (4B, ...)
    parts = rows.split([size for width in widths for size in (classes, width)], dim=1)
    return list(zip(parts[::2], parts[1::2], strict=True))


def train_heads(losses: Mapping[str, SSKDLoss], table: Table, widths: Sequence[int], data: Split, epochs: int) -> None:
    """Train every teacher's head to know images again after rotation."""

    def loss(heads: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        said = look_up(table, widths, batch, data.samples.classes)
        terms = [one.teacher_head_loss(features) for one, (_, features) in zip(losses.values(), said, strict=True)]
        return {"recognition": torch.stack(terms).sum()}

    fit(nn.ModuleDict({name: one.teacher_head for name, one in losses.items()}), data, loss, epochs=epochs)
