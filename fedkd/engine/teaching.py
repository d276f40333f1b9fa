"""What the clients' answers on public samples become: how good the teacher is, whose answers it is made of, who follows it.

It looks at uploads and broadcasts and changes neither. Nothing of it travels: the labels of public samples are read where the
server's process has them, and stay there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from flwr.app import RecordDict
from torch import Tensor

from fedkd.data.dealt_out import DealtOut
from fedkd.engine.evaluation import teacher
from fedkd.engine.round_metrics import RoundMetrics
from fedkd.experiment.algorithm.server import Server
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.memory import Memory

#: What answers may be, and what a teacher may be.
ANSWERS, TEACHERS = ("logits", "probabilities", "labels"), ("logits", "probabilities")
_PART, _IDS, _CLASSES = "teaching", "ids", "classes"
#: Digits of a share that are kept.
DIGITS = 4


@final
@dataclass(frozen=True)
class Lesson:
    """One exchange's tables: the public samples that they speak of, each client's answers, and what was made of them."""

    ids: Tensor  # (P,)
    answers: Mapping[int, tuple[str, Tensor]]  # client -> space, table
    target: tuple[str, Tensor]


@final
class Teaching:
    """Watches the exchanges in which clients' answers on public samples become one teacher for all."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before: tuple[Tensor, Tensor] | None = None  # ids and classes of the last target, (P,) each

    def enter(
        self, uploads: Mapping[int, Knowledge], answer: Knowledge | Mapping[int, Knowledge] | None, metrics: RoundMetrics
    ) -> None:
        """Put what an exchange shows into a round's metrics; nothing where it has no such tables."""
        lesson = self._shown() or self._travelled(uploads, answer)
        self._server.lesson = None
        if lesson is not None and answer is not None:
            self._measure(lesson, metrics)

    def _shown(self) -> Lesson | None:
        """What the server's half shows itself, where the clients' answers are made there."""
        if (shown := self._server.lesson) is None:
            return None
        answers, target, ids = shown
        return Lesson(ids, {client: ("logits", table) for client, table in answers.items()}, ("logits", target))

    def _travelled(self, uploads: Mapping[int, Knowledge], answer: object) -> Lesson | None:
        """Tables that clients uploaded about public samples, and the one that goes back to all of them."""
        ids = self._server.public_ids
        if ids is None or not isinstance(answer, Knowledge):
            return None
        target = _table(answer, TEACHERS, len(ids), self._server.classes)
        tables = {client: _table(upload, ANSWERS, len(ids), self._server.classes) for client, upload in uploads.items()}
        answers = {client: table for client, table in tables.items() if table is not None}
        return Lesson(ids, answers, target) if target is not None and answers else None

    def _measure(self, lesson: Lesson, metrics: RoundMetrics) -> None:
        classes, labels = self._server.classes, known_labels(self._server, lesson.ids)
        taught = teacher.as_probabilities(lesson.target[1].cpu(), lesson.target[0], classes)
        targets = taught.argmax(1)
        votes = torch.zeros(len(targets), classes, dtype=torch.int64)
        accuracies, masses, followed = [], [], []
        for space, table in lesson.answers.values():
            said = teacher.as_probabilities(table.cpu(), space, classes)
            named = said.argmax(1)
            votes.scatter_add_(1, named[:, None], torch.ones_like(named[:, None]))
            accuracies.append(teacher.accuracy(named, labels))
            masses.append(teacher.mass_by_class(said, targets))
            followed.append(self._followed(lesson.ids, named))
        found = {
            "teacher_accuracy": teacher.accuracy(targets, labels),
            "student_accuracy": sum(accuracies) / len(accuracies),
            "teacher_agreement": teacher.agreement(votes, len(accuracies)),
            "teacher_entropy": teacher.entropy(taught),
            "teacher_calibration_error": teacher.calibration_error(taught, labels),
        }
        metrics.row |= {key: value for key, value in found.items() if not math.isnan(value)}
        mass = torch.stack(masses)  # (K, C)
        metrics.flow = {
            "clients": list(lesson.answers),
            "samples": torch.bincount(targets, minlength=classes).tolist(),
            "shares": _rounded(mass / mass.sum(0)),
            **({"followed": _rounded(torch.stack(followed))} if self._before is not None else {}),
        }
        self._before = lesson.ids, targets

    def _followed(self, ids: Tensor, named: Tensor) -> Tensor:
        """By class of the target before, on how many of the samples that it spoke of a client now names the same. (C,)"""
        classes = self._server.classes
        if self._before is None:
            return torch.full((classes,), math.nan)
        before_ids, targets = self._before
        if not torch.equal(before_ids, ids):
            order = before_ids.argsort()
            places = torch.searchsorted(before_ids[order], ids).clamp_max(len(order) - 1)
            common = before_ids[order][places] == ids
            named, targets = named[common], targets[order][places[common]]
        return teacher.agreement_by_class(named, targets, classes)

    def save(self) -> dict[str, RecordDict]:
        """What the next exchange is held against, for a checkpoint."""
        if self._before is None:
            return {}
        memory = Memory(dict(zip((_IDS, _CLASSES), self._before, strict=True)))
        memory.write(records := RecordDict())
        return {_PART: records}

    def restore(self, parts: Mapping[str, RecordDict]) -> None:
        """From a checkpoint's parts."""
        if _PART in parts:
            memory = Memory.read(parts[_PART])
            self._before = memory.tensor(_IDS), memory.tensor(_CLASSES)


def known_labels(server: Server, ids: Tensor) -> Tensor:
    """The labels of public samples where this process has them, used in training or not; else -1. (P,)"""
    federation = server.federation
    if isinstance(federation, DealtOut) and not federation.public_content:
        return federation.source.train_labels[ids]
    return torch.full_like(ids, -1) if federation.public is None else federation.public.labels[ids]


def _table(knowledge: Knowledge, spaces: tuple[str, ...], samples: int, classes: int) -> tuple[str, Tensor] | None:
    """The first tensor with a row of such a space for each sample."""
    for name, tensor in knowledge.tensors.items():
        shape = (samples,) if knowledge.spaces[name] == "labels" else (samples, classes)
        if knowledge.spaces[name] in spaces and tuple(tensor.shape) == shape:
            return knowledge.spaces[name], tensor
    return None


def _rounded(table: Tensor) -> list[list[Any]]:
    return [[None if math.isnan(value) else round(value, DIGITS) for value in row] for row in table.tolist()]
