"""What a distiller is, what it is made from, and the plain ones: a loss on logits, features or gradients of logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor, nn

from fedkd.base.inputs import Inputs
from fedkd.nets import Outputs, features_of


@final
@dataclass(frozen=True, eq=False)
class Shown:
    """The samples of a step, as both nets saw them."""

    inputs: Inputs  # (B, ...)
    labels: Tensor  # (B,) int64
    ids: Tensor  # (B,) int64, on the CPU


@final
@dataclass(frozen=True, eq=False)
class Pairing:
    """What a distiller is made from: outputs of both nets for some samples, which tell the shapes, and the settings."""

    student: Outputs
    teacher: Outputs
    temperature: float
    ids: Tensor  # (M,) int64: every sample that it will be shown
    labels: Tensor  # (M,) int64
    batch_size: int = 64  # of a full step
    options: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of the loss function


class Distiller(nn.Module, ABC):
    """A distillation loss for one student and one teacher. What it learns itself, connectors say, are its parameters."""

    @abstractmethod
    def forward(self, student: Outputs, teacher: Outputs, shown: Shown) -> Tensor:
        """The loss () of a step, unweighted; the gradient reaches the student and the distiller, never the teacher."""


@final
class OnLogits(Distiller):
    """``function(student's logits, teacher's logits)``, then the labels if it wants them."""

    def __init__(self, function: Callable[..., Tensor], *, labels: bool = False) -> None:
        super().__init__()
        self._function, self._labels = function, labels

    def forward(self, student: Outputs, teacher: Outputs, shown: Shown) -> Tensor:
        """The function's value."""
        return self._function(student.logits, teacher.logits, *([shown.labels] if self._labels else []))


@final
class OnLabels(Distiller):
    """``function(student's logits, labels)``: the teacher is made up from the labels."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, student: Outputs, teacher: Outputs, shown: Shown) -> Tensor:
        """The function's value."""
        return self._function(student.logits, shown.labels)


@final
class OnGradients(Distiller):
    """``function(student's logits, teacher's logits, images, labels)``, which differentiates logits by the images."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, student: Outputs, teacher: Outputs, shown: Shown) -> Tensor:
        """The function's value."""
        return self._function(student.logits, teacher.logits, shown.inputs, shown.labels)


@final
class OnFeatures(Distiller):
    """``function(student's features, teacher's features)``, both first through a linear map to ``width`` where one is given."""

    def __init__(self, function: Callable[..., Tensor], pairing: Pairing, *, width: int = 0) -> None:
        super().__init__()
        self._function = function
        sizes = [features_of(outputs).shape[1] for outputs in (pairing.student, pairing.teacher)]
        self.maps = nn.ModuleList(nn.Linear(size, width) if width else nn.Identity() for size in sizes)

    def forward(self, student: Outputs, teacher: Outputs, shown: Shown) -> Tensor:
        """The function's value."""
        return self._function(self.maps[0](features_of(student)), self.maps[1](features_of(teacher).detach()))
