"""Teaching: a net at the server learns from K teachers, by the target and the loss that an experiment names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, final

import torch
import torch.nn.functional as F
from pydantic import AfterValidator
from torch import Tensor, nn

from fedkd.base.errors import InputError, under
from fedkd.base.inputs import each, rows
from fedkd.base.randomness import seeded
from fedkd.experiment.algorithm.fields import Listed, NonNegative
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import Batch, Split, fit
from fedkd.losses.distillers import Distiller, Pairing, Recipe, Shown, recipe_named
from fedkd.methods.branches import example_input
from fedkd.methods.students.student import has_labels
from fedkd.methods.students.teachers import Teachers, compute_outputs
from fedkd.nets import Net, Outputs, load
from fedkd.targets import Evidence, Rule, rule_named

if TYPE_CHECKING:
    from fedkd.experiment.algorithm.settings import Settings


def _known_target(name: str) -> str:
    rule_named(name)
    return name


#: A field that takes a name of fedkd.targets.RULES.
TargetName = Annotated[str, AfterValidator(_known_target)]
#: Fields that take a list.
Numbers = Annotated[tuple[NonNegative, ...], Listed]
RunNames = Annotated[tuple[str, ...], Listed]


#: Samples that tell a distiller the shapes of maps and features, and what a teacher's responses are like.
EXAMPLES = 256


@final
@dataclass(frozen=True)
class TeachingTask:
    """What is taught, and how much of it: ``label_weight * cross-entropy + weight * usual weight * loss``."""

    target: str = "mean_probs"
    loss: str = "kd"
    temperature: float = 4.0
    weight: float = 1.0
    label_weight: float = 1.0
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    teacher_weights: tuple[float, ...] = ()
    vote_noise: float = 0.0
    augmented: bool = False

    @classmethod
    def of(cls, strategy: object) -> TeachingTask:
        """From a strategy that has these fields."""
        return cls(**{name.name: getattr(strategy, name.name) for name in fields(cls)})

    @cached_property
    def rule(self) -> Rule:
        """The target's."""
        return rule_named(self.target)

    @cached_property
    def recipe(self) -> Recipe:
        """The loss's."""
        return recipe_named(self.loss)

    @property
    def on_logits(self) -> bool:
        """Whether the loss compares with one target made of all teachers; else with each teacher, and the mean counts."""
        return not self.recipe.needs & {"features", "maps", "inputs"}

    @property
    def on_classifier(self) -> bool:
        """Whether the loss teaches the student's classifier, and not what lies below it alone."""
        return self.weight > 0 and not self.recipe.needs & {"features", "maps"}

    @property
    def needs(self) -> frozenset[str]:
        """What loss and target need together; where the loss compares with each teacher the target does not matter."""
        return self.recipe.needs | (self.rule.needs if self.on_logits else frozenset())

    def check(self, experiment: Settings) -> None:
        """Raise InputError if the experiment does not give what target and loss need."""
        with under("strategy.loss_options"):
            self.recipe.settings(self.temperature, self.loss_options)
        if self.on_logits and self.rule.excludes and self.recipe.raw:
            raise InputError(
                f"strategy.loss: {self.loss!r} compares logits, and target {self.target!r} gives classes a probability of 0, "
                "of which there is no logit: take loss 'kd', or another target"
            )
        data, what = experiment.data, f"target {self.target!r} with loss {self.loss!r}"
        if "labels" in self.needs and not has_labels(experiment):
            raise InputError(f"strategy: {what} needs labels: set data.public_labels = true, or take others")
        if "validation" in self.needs and not data.validation:
            raise InputError(f"strategy: {what} needs a labelled validation set: set data.validation to its size")
        if "weights" in self.needs and not self.teacher_weights:
            raise InputError("strategy.teacher_weights: target 'weighted' needs them: give one number a teacher")

    def check_samples(self, node: Node, nets: Iterable[str]) -> None:
        """Raise InputError where the loss needs what samples or ``nets`` lack: gradients by token ids, features, maps."""
        source = node.federation.source
        one = source.kind.scale(rows(source.train_inputs, slice(0, 1)))
        if "inputs" in self.needs and (isinstance(one, Mapping) or not one.is_floating_point()):
            held = f"data.source {source.name!r} holds {source.kind.name}"
            raise InputError(f"strategy.loss: {self.loss!r} differentiates by the samples, and {held}: take another loss")
        for name in dict.fromkeys(nets) if self.needs & {"features", "maps"} else ():
            with under("strategy.loss"), seeded(0), torch.no_grad():
                maps = node.fresh_net(architecture=name).eval().outputs(example_input(node)).maps
            if "maps" in self.needs and not maps:
                cure = "take nets with convolutions or blocks, or another loss"
                raise InputError(f"strategy.loss: {self.loss!r} reads feature maps, and net {name!r} has none: {cure}")

    def samples(self, data: Split) -> Split:
        """Those of ``data`` that can be taught: where labels are needed, only samples that have one."""
        return data.labelled() if "labels" in self.needs else data


def teach(
    server: Server,
    student: Net,
    data: Split,
    teachers: Teachers,
    task: TeachingTask,
    known: Mapping[str, Any],
    *,
    names: Sequence[int] = (),
) -> dict[str, float]:
    """Train a student for ``train.epochs`` on its teachers' outputs.

    Distillers with parameters or memory are trained along and kept in the server's memory by student and teacher.

    Args:
        server: where.
        student: the net, one of the server's.
        data: the samples, ``task.samples(...)`` of those that there are.
        teachers: their outputs of a step's samples.
        task: what is taught, and how much of it.
        known: what is known beside the teachers' logits, fields of ``fedkd.targets.Evidence``.
        names: numbers of the teachers, in their order, which tell them apart where they come and go: ids of clients. Each
            keeps its distiller, and its place in ``teacher_weights``. Default, 0, 1 and so on.

    Returns:
        the mean of ``distillation``, of ``cross_entropy`` where there are labels, and of their sum as ``loss``.

    Raises:
        InputError: not as many ``teacher_weights`` as teachers.
    """
    distillers = _distillers(server, student, data, teachers, task, names)
    known, label_weight = {**known, **_settings(server, task, names)}, weight_of_labels(task.label_weight, data)

    def loss(nets: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        shown = _shown(batch, task)
        own, theirs = compute_outputs(student, shown.inputs, task.needs), teachers(shown)
        taught = [_merge(theirs, own, shown, task, known)] if task.on_logits else theirs
        terms = [distiller(own, teacher, shown) for distiller, teacher in zip(distillers.values(), taught, strict=True)]
        distilled = task.weight * task.recipe.weight * torch.stack(terms).mean()
        return {"distillation": distilled} | label_loss(own.logits, shown.labels, label_weight)

    losses = fit(nn.ModuleDict({"student": student, "distillers": distillers}), data, loss)
    for name, distiller in distillers.items():
        server.memory.store(f"distillers/{student.architecture}/{name}/", distiller.state_dict())
    return losses


def weight_of_labels(weight: float, data: Split) -> float:
    """The weight of a cross-entropy, or 0 where no sample of ``data`` has a label that may be used."""
    return weight if len(data.labelled()) else 0.0


def label_loss(logits: Tensor, labels: Tensor, weight: float, *, part: str = "cross_entropy") -> dict[str, Tensor]:
    """``part``: cross-entropy, times its weight, over those of the batch's samples whose label may be used (not -1).

    Nothing where the weight is 0; 0 for a batch without labels.
    """
    if not weight:
        return {}
    total = F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum")
    return {part: weight * total / (labels >= 0).sum().clamp_min(1)}


def _shown(batch: Batch, task: TeachingTask) -> Shown:
    inputs = batch.view(0) if task.augmented else batch.inputs
    if "inputs" in task.needs:
        inputs = each(lambda tensor: tensor.requires_grad_(), inputs)
    return Shown(inputs, batch.labels, batch.ids)


def _settings(server: Server, task: TeachingTask, names: Sequence[int]) -> dict[str, Any]:
    """What the task itself adds to the evidence."""
    given = task.teacher_weights
    if given and names and max(names) >= len(given):
        raise InputError(
            f"strategy.teacher_weights has {len(given)} numbers, and there is a client {max(names)}: give one a client"
        )
    weights = {"weights": torch.tensor([given[name] for name in names] or given)} if given else {}  # (K,)
    return {"noise": task.vote_noise, "rng": server.rng("votes"), **weights}


def _merge(teachers: list[Outputs], own: Outputs, shown: Shown, task: TeachingTask, known: Mapping[str, Any]) -> Outputs:
    """All teachers as one: the target's logits."""
    logits = torch.stack([outputs.logits for outputs in teachers])  # (K, B, C)
    if "weights" in known and len(known["weights"]) != len(teachers):
        given = len(known["weights"])
        raise InputError(
            f"strategy.teacher_weights has {given} numbers, and there are {len(teachers)} teachers: give one a teacher"
        )
    evidence = Evidence(logits, temperature=task.temperature, labels=shown.labels, student=own.logits.detach().float(), **known)
    return Outputs(task.rule.function(evidence).logits(task.temperature))


def _distillers(
    server: Server, student: Net, data: Split, teachers: Teachers, task: TeachingTask, names: Sequence[int]
) -> nn.ModuleDict:
    """One distiller for the target, or one a teacher, as its last training left it."""
    example = next(data.batches(epochs=1, batch_size=EXAMPLES, rng=server.lasting_rng("examples")))
    shown = _shown(example, task)
    with torch.no_grad(), data.work.autocast():
        own, theirs = compute_outputs(student.eval(), shown.inputs, task.needs), teachers(shown)
    ids, labels = data.samples.indices, data.samples.labels[data.samples.indices]

    def made(teacher: Outputs) -> Distiller:
        size = data.work.settings.batch_size
        return task.recipe.make(Pairing(own, teacher, task.temperature, ids, labels, size, task.loss_options))

    taught = {0: theirs[0]} if task.on_logits else dict(zip(names or range(len(theirs)), theirs, strict=True))
    distillers = nn.ModuleDict({str(name): made(teacher) for name, teacher in taught.items()})
    for name, distiller in distillers.items():
        if kept := server.memory.under(f"distillers/{student.architecture}/{name}/"):
            load(distiller, kept)
    return distillers.to(server.device)
