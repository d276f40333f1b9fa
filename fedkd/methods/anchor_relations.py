"""How a student encoder learns from a teacher's embeddings of public samples: by how it relates them to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

from torch import Tensor

from fedkd.experiment.algorithm.train import Batch, Split
from fedkd.losses import compress_loss, seed_loss
from fedkd.methods.anchors import Anchors, embed_public
from fedkd.nets import Net

#: ``loss(student, teacher, queue, own)``: (B, D) of a batch twice, (Q, D) of other samples by the teacher and by the student.
RelationLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@final
@dataclass(frozen=True)
class Relation:
    """One way to compare relations: the loss, which heads the student's projections pass, whether it asks for older ones."""

    loss: RelationLoss
    heads: tuple[str, ...] = ()
    remembers: bool = False


def _seed(student: Tensor, teacher: Tensor, queue: Tensor, own: Tensor) -> Tensor:
    return seed_loss(student, teacher, queue)


def _one_queue(student: Tensor, teacher: Tensor, queue: Tensor, own: Tensor, *, temperature: float = 0.04) -> Tensor:
    return compress_loss(student, teacher, queue, temperature=temperature)


def _two_queues(student: Tensor, teacher: Tensor, queue: Tensor, own: Tensor) -> Tensor:
    return compress_loss(student, teacher, queue, student_queue=own)


#: By name: SEED; CompRess with two queues and with the teacher's alone; ISD. Each at its paper's temperatures.
RELATIONS = {
    "seed": Relation(_seed),
    "compress_2q": Relation(_two_queues, remembers=True),
    "compress_1q": Relation(_one_queue),
    "isd": Relation(partial(_one_queue, temperature=0.02), ("prediction",)),
}


@final
class Lesson:
    """One student's local training on public samples: batches of them, what the teacher says, what the student said last.

    The anchors of a batch are all samples outside it, so a batch is at most half of them. The student's own embeddings of
    them, if the relation asks for these, are those of its net as the lesson begins, then of the batches as they come.
    """

    def __init__(self, relation: Relation, net: Net, subset: Split, taught: Anchors) -> None:
        self._relation, self._taught, self._own = relation, taught, taught
        if relation.remembers:
            rows = embed_public(net, subset, *relation.heads).to(subset.work.device)
            self._own = Anchors(subset.samples.indices, rows)
        self._batches = subset.stream("public", min(subset.work.settings.batch_size, max(1, len(subset) // 2)))

    def next(self) -> Batch:
        """Public samples."""
        return next(self._batches)

    def loss(self, net: Net, projected: Tensor, ids: Tensor) -> Tensor:
        """Of a random view of these public samples (B,), given its projections (B, D). Gradient: to the student only."""
        student = projected
        for head in self._relation.heads:
            student = net.head(head, student)
        queue, own = self._taught.others(ids), self._own.others(ids)
        loss = self._relation.loss(student, self._taught.rows(ids), queue, own)
        if self._relation.remembers:
            self._own.replace(ids, student)
        return loss
