"""Distillers on feature maps: which map of the student meets which of the teacher, and what becomes of the pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.losses.distillers.distiller import Distiller, Pairing, Shown
from fedkd.nets import Outputs

#: Example maps of student and teacher, (M, c, h, w) each -> what takes such a pair to a loss, or the former to the latter.
Make = Callable[[Tensor, Tensor], nn.Module]


def partners(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[int, int]]:
    """For every map of the student the teacher's deepest one of the nearest size: (number, number), from 0.

    Raises:
        InputError: one of the nets has no maps.

    >>> cnn, resnet = [[torch.empty(1, 1, size, size) for size in sizes] for sizes in ((14, 7), (28, 28, 14, 7, 4))]
    >>> partners(cnn, resnet), partners(resnet, cnn)
    ([(0, 2), (1, 3)], [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1)])
    """
    if not (student and teacher):
        who = "teacher" if student else "student"
        raise InputError(f"this loss reads feature maps, and the {who} has none: take nets with convolutions, or another loss")

    def distance(size: int, number: int) -> tuple[float, int]:
        return abs(math.log2(_size(teacher[number]) / size)), -number

    return [(i, min(range(len(teacher)), key=lambda k: distance(_size(held), k))) for i, held in enumerate(student)]


def _size(held: Tensor) -> int:
    """The width of an image's map (B, c, h, w); the length of a signal's or a text's (B, c, L, 1)."""
    return held.shape[3] if held.shape[3] > 1 else held.shape[2]


@final
class Connected(nn.Module):
    """``function(connector(student's map), teacher's map)``."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], connector: nn.Module) -> None:
        super().__init__()
        self._function, self.connector = function, connector

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The function's value, ()."""
        return self._function(self.connector(student), teacher)


@final
class OnMaps(Distiller):
    """The sum of a loss over pairs of maps.

    Args:
        pairing: what the nets give.
        term: makes the loss of a pair.
        deepest: only the last pair.
        before_relu: maps as they are before their ReLU.
        halving: each pair counts half of the next deeper one, as in AB and OFD.
    """

    def __init__(
        self, pairing: Pairing, term: Make, *, deepest: bool = False, before_relu: bool = False, halving: bool = False
    ) -> None:
        super().__init__()
        self._before_relu = before_relu
        own, taught = self._maps(pairing.student), self._maps(pairing.teacher)
        self._pairs = partners(own, taught)[-1:] if deepest else partners(own, taught)
        self.terms = nn.ModuleList(term(own[i], taught[k]) for i, k in self._pairs)
        self._shares = [0.5 ** (len(self._pairs) - 1 - n) if halving else 1.0 for n in range(len(self._pairs))]

    def _maps(self, outputs: Outputs) -> tuple[Tensor, ...]:
        return outputs.maps if self._before_relu else outputs.activated

    def forward(self, student: Outputs, teacher: Outputs, shown: Shown) -> Tensor:
        """The sum over pairs."""
        own, taught = self._maps(student), self._maps(teacher)
        losses = [term(own[i], taught[k]) for term, (i, k) in zip(self.terms, self._pairs, strict=True)]
        return torch.stack([loss * share for loss, share in zip(losses, self._shares, strict=True)]).sum()


@final
class OnNeighbours(Distiller):
    """The sum, over neighbouring maps of the student, of ``function((map, next map), the teacher's partners of both)``."""

    def __init__(
        self, pairing: Pairing, function: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor], connect: Make
    ) -> None:
        super().__init__()
        self._function = function
        own, taught = pairing.student.maps, pairing.teacher.maps
        self._pairs = partners(own, taught)
        if len(self._pairs) < 2:
            raise InputError(
                "this loss reads two feature maps in a row, and the student has one: take a deeper net or another loss"
            )
        self.connectors = nn.ModuleList(connect(own[i], taught[k]) for i, k in self._pairs)

    def forward(self, student: Outputs, teacher: Outputs, shown: Shown) -> Tensor:
        """The sum over neighbours."""
        own = [connect(student.activated[i]) for connect, (i, _) in zip(self.connectors, self._pairs, strict=True)]
        taught = [teacher.activated[k] for _, k in self._pairs]
        return torch.stack([self._function(tuple(own[n : n + 2]), tuple(taught[n : n + 2])) for n in range(len(own) - 1)]).sum()


@final
class OnAllMaps(Distiller):
    """One module that sees all maps of the student, and their partners or all maps of the teacher.

    Args:
        pairing: what the nets give.
        make: the module of the shapes (c, h, w) of both lists of maps.
        partnered: the teacher's partners of the student's maps, as they are before their ReLU; else all its maps, after it.
        batch_size: the only one that the module can take: a smaller batch, the last of an epoch, teaches nothing. 0 = any.
    """

    def __init__(
        self,
        pairing: Pairing,
        make: Callable[[list[tuple[int, ...]], list[tuple[int, ...]]], nn.Module],
        *,
        partnered: bool,
        batch_size: int = 0,
    ) -> None:
        super().__init__()
        self._batch_size = batch_size
        own, taught = pairing.student.maps, pairing.teacher.maps
        pairs = partners(own, taught)
        self._chosen = [k for _, k in pairs] if partnered else list(range(len(taught)))
        self._before_relu = partnered
        self.module = make([tuple(held.shape[1:]) for held in own], [tuple(taught[k].shape[1:]) for k in self._chosen])

    def forward(self, student: Outputs, teacher: Outputs, shown: Shown) -> Tensor:
        """The module's value."""
        if self._batch_size not in (0, len(shown.ids)):
            return 0.0 * student.logits.sum()
        taught = teacher.maps if self._before_relu else teacher.activated
        loss: Tensor = self.module(list(student.activated), [taught[k] for k in self._chosen])
        return loss
