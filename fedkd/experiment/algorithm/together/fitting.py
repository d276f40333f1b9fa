"""One training that may be carried out together with others: all that ``fit`` was given."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn

from fedkd.experiment.algorithm.split import Draw, Loss, Split
from fedkd.experiment.algorithm.together.alike import Alone, function_of, optimizer_of, structure_of
from fedkd.experiment.algorithm.together.given import Parts, taken_apart


@final
@dataclass(frozen=True, eq=False)
class Fitting:
    """A training as one client calls for it. Its ``key`` equals that of all with which it can be carried out as one."""

    net: nn.Module
    data: Split
    loss: Loss
    given: tuple[Any, ...]
    optimizer: torch.optim.Optimizer | None
    draws: list[Draw]
    passes: float  # over the samples, for messages

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many samples each step sees."""
        return tuple(len(draw.positions) for draw in self.draws)

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Of its net, by name."""
        return dict(self.net.named_parameters())

    @cached_property
    def buffers(self) -> dict[str, Tensor]:
        """Of its net, by name."""
        return dict(self.net.named_buffers())

    @cached_property
    def parts(self) -> Parts:
        """What its loss is given, taken apart."""
        return taken_apart(self.given)

    @property
    def bytes(self) -> int:
        """Of its net's weights."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.parameters.values())

    def key(self) -> Hashable:
        """Raises Alone where no other training can agree with it."""
        samples, work = self.data.samples, self.data.work
        if work.settings.precision == "fp16":
            raise Alone('train.precision is "fp16"')
        if work.settings.accumulate > 1:
            raise Alone("train.accumulate is above 1")
        moments = work.moments or samples.moments
        of_data = (id(samples.inputs), id(samples.labels), id(samples.kind), *map(id, moments), samples.classes)
        of_work = (id(work.settings), work.lr, work.device)
        of_loss = (function_of(self.loss), tuple(self.parts.rest))
        key = (
            structure_of(self.net, {**self.parameters, **self.buffers}),
            *of_loss,
            optimizer_of(self.optimizer),
            of_work,
            of_data,
        )
        try:
            hash(key)
        except TypeError as error:
            raise Alone(f"its loss cannot be compared with others' ({error})") from None
        return key
