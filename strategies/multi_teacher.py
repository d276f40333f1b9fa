"""Multi-teacher distillation: a student at the server learns from frozen nets, of finished runs or of the clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

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
    Share,
    Strategy,
    TensorSpec,
)
from fedkd.experiment.algorithm.conditions import Idle, IfSet, Unless, When, WithLabels
from fedkd.losses.distillers import ON_LOGITS, LossName
from fedkd.methods.ramp import ramped
from fedkd.methods.students import student as learner
from fedkd.methods.students.teachers import CLASSES, beside_logits, make_teachers
from fedkd.methods.students.teaching import Numbers, RunNames, TargetName, TeachingTask, teach


@final
@dataclass(frozen=True)
class MultiTeacher(Strategy):
    """The server's net learns what several teachers together predict of its samples, and labels where it has them.

    Paper: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531, and those that the
    docstrings of ``target`` (fedkd.targets) and ``loss`` (fedkd.losses) name.
    What travels: each client's weights and buffers up, |θ_k| elements, and for target "unify" which classes it has
    samples of; the student's down, |θ| elements, for clients to have it. Where a finished run's nets teach, nothing
    goes up.
    The teachers are the nets that clients train on their own samples and upload each round, or those a run left in its
    directory: its clients', or its global one. They are frozen and in eval mode, and may differ from the student and
    from each other. The student learns on the public samples; where a finished run teaches and there are none, on the
    training samples of all clients at one place, as in ``centralised``. A loss on logits has one target made of all
    teachers; a loss on features or maps has each teacher by itself, the mean counts, and the target does not matter.
    Views are not augmented unless told to, so teachers' outputs of a sample are computed once and looked up by its id.
    The optimiser is new each round. DKD with a large ``beta`` wants a ``ramp``: its code raises the loss over 20 of 240
    epochs.
    Deviations: those of target and loss, and of fedkd.losses.distillers: ``weight`` is relative to what the loss's
    code, or RepDistiller, gives it; the student's maps meet the teacher's deepest ones of the nearest size; OFD's
    margin is the mean of the teacher's own negative responses; the paraphraser of factor transfer learns along with the
    student; SemCKD skips a batch of another size. Self-supervised KD and CS-KD need batches of their own: see ``sskd``
    and ``cskd``.
    """

    teachers: RunNames = ()  # finished runs (DIR, DIR@ROUND or DIR@best), whose nets teach; default, the clients
    target: TargetName = "mean_probs"  # what several teachers say together, by name: see `fedkd targets`
    loss: LossName = "kd"  # how the student learns it, by name: see `fedkd losses`
    temperature: Positive = 4.0  # of softened predictions
    weight: NonNegative = 1.0  # of the loss, times its usual weight
    label_weight: NonNegative = 1.0  # of the cross-entropy on labels
    ramp: Share = 0.0  # share of the rounds over which the loss grows to its weight; 0 = from the start
    loss_options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the loss: {beta = 2.0}
    teacher_weights: Numbers = ()  # of target "weighted", in order of the teachers
    vote_noise: NonNegative = 0.0  # of target "vote": the scale of Laplace noise, in votes
    augmented: bool = False  # show random views (data.views), to teachers and student alike

    paper: ClassVar[str] = "Hinton et al. 2015, arXiv 1503.02531"
    sends: ClassVar[str] = "clients' nets up (or nothing), the student's weights and buffers down"
    needs: ClassVar[Needs] = Needs(
        labels=True, public=True, uses=("server_net", "public_labels", "validation", "views")
    )
    idle: ClassVar[Idle] = {
        "target": (Unless(weight=0), When("loss", *ON_LOGITS)),
        **dict.fromkeys(("loss", "loss_options", "temperature", "ramp"), (Unless(weight=0),)),
        "teacher_weights": (When("target", "weighted"),),
        "vote_noise": (When("target", "vote"),),
        "label_weight": (WithLabels(),),
        "views": (Unless(augmented=False),),
        "labels": (IfSet("teachers"),),
    }

    def check(self, experiment: Settings) -> None:
        """Public samples are for clients' nets only; labels and a validation set where target or loss ask for them."""
        learner.check(self, experiment, self.teachers)
        task = TeachingTask.of(self)
        task.check(experiment)
        key = "loss" if self.weight else "weight"
        learner.check_lesson(experiment, guided=task.on_classifier, labels=self.label_weight > 0, key=key)

    def check_samples(self, node: Node) -> None:
        """Samples of real numbers, nets with features or maps, where the loss reads such."""
        student, *clients = node.architecture, *node.experiment.architectures
        TeachingTask.of(self).check_samples(node, [student, *([] if self.teachers else clients)])

    def first_broadcast(self, server: Server) -> Knowledge:
        """The student's initial weights."""
        return learner.first_broadcast(server, self.teachers, some_classes=self._by_class)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A client's net, or nothing."""
        return learner.upload_schema(server, client, self.teachers, name_classes=self._by_class)

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """A teacher knows some class."""
        if self._by_class and not self.teachers and not upload.tensors[CLASSES].any():
            raise ValueError("it says that it has samples of no class")

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Train and upload an own net; or, where a run's nets teach, only measure the student."""
        return learner.train_or_measure(client, broadcast, self.teachers, name_classes=self._by_class)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The student's epochs."""
        task, student = TeachingTask.of(self), learner.student_net(server)
        task = replace(task, weight=task.weight * ramped(server, self.ramp))
        data = task.samples(learner.transfer_samples(server))
        teachers, clients = make_teachers(server, self.teachers, uploads, data, task.needs, augmented=self.augmented)
        if self.teachers or clients:
            sound = {client: uploads[client] for client in clients}
            known = beside_logits(server, self.teachers, sound, task.needs)
            server.report(teach(server, student, data, teachers, task, known, names=clients))
        return Knowledge.of("weights", student.state_dict())

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The student; at a client that trains one, its own net too."""
        return learner.student_predictors(node, broadcast, self.teachers)

    @property
    def _by_class(self) -> bool:
        return "class_sets" in TeachingTask.of(self).needs
