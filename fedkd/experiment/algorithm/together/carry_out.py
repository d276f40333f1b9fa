"""Trainings of many clients, carried out as one where they agree."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedkd.base.errors import TrainingError
from fedkd.experiment.algorithm.step import sum_of
from fedkd.experiment.algorithm.together.alike import Alone
from fedkd.experiment.algorithm.together.batches import OneOfMany, StackedBatches
from fedkd.experiment.algorithm.together.fitting import Fitting
from fedkd.experiment.algorithm.together.given import leave, put_together, taken_apart
from fedkd.experiment.algorithm.together.stack import Stack, StackedOptimizer, clip
from fedkd.experiment.algorithm.trained import check_weights, mean_losses
from fedkd.knowledge.knowledge import MAX_MAGNITUDE

#: Fewer than so many gain nothing.
FEWEST = 4
#: Weights of so many bytes are in one stack: what a processor's cache holds is worked on fastest.
STACK_BYTES = 4 * 2**20

Answer = dict[str, float] | Exception


def carry_out(fittings: Sequence[Fitting]) -> list[Answer]:
    """Train all nets; give for each what ``fit`` returns, the TrainingError that it raises, or Alone: nothing has been done."""
    answers: dict[int, Answer] = {}
    groups: dict[Hashable, list[int]] = {}
    for place, fitting in enumerate(fittings):
        try:
            groups.setdefault(fitting.key(), []).append(place)
        except Alone as reason:
            answers[place] = reason
    for places in groups.values():
        places.sort(key=lambda place: fittings[place].sizes, reverse=True)  # stable
        for part in _parts(places, fittings[places[0]]):
            answers |= zip(part, _together([fittings[place] for place in part]), strict=True)
    return [answers[place] for place in range(len(fittings))]


def _parts(places: list[int], first: Fitting) -> Iterator[list[int]]:
    """As many at a time as make a stack of a good size, shared out evenly."""
    number = max(1, round(len(places) * first.bytes / STACK_BYTES))
    number = min(number, max(1, len(places) // FEWEST))
    for part in range(number):
        yield places[len(places) * part // number : len(places) * (part + 1) // number]


def _together(fittings: Sequence[Fitting]) -> list[Answer]:
    """Of one part of a group."""
    if len(fittings) < FEWEST:
        return [Alone("too few agree in net, loss, settings and data")] * len(fittings)
    try:
        with _contiguous(fittings[0].net):
            training = _Training(fittings)
            training.carry_out()
    except Exception as error:  # whatever a loss does that vmap cannot do: nothing is written back yet
        text = str(error) if isinstance(error, Alone) else f"vmap cannot do it ({type(error).__name__}: {_first_line(error)})"
        return [Alone(text)] * len(fittings)
    return training.finish()


@contextmanager
def _contiguous(net: nn.Module) -> Iterator[None]:
    """Inside the block images lie as they come: vmap knows no other memory format."""
    laid = [
        (part, part.memory_format)
        for part in net.modules()
        if isinstance(getattr(part, "memory_format", None), torch.memory_format)
    ]
    for part, _ in laid:
        part.memory_format = torch.contiguous_format
    try:
        yield
    finally:
        for part, before in laid:
            part.memory_format = before


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


class _WithLoss(nn.Module):
    """A net and the nets that its loss is given, so that ``functional_call`` puts other weights into all of them."""

    def __init__(self, fitting: Fitting) -> None:
        super().__init__()
        self.net, self.teachers, self._fitting = fitting.net, nn.ModuleList(fitting.parts.modules), fitting

    def forward(self, batch: OneOfMany, given: tuple[Any, ...]) -> tuple[Mapping[str, Tensor], dict[str, Tensor]]:
        """The parts of the loss, and the net's buffers as the forward pass leaves them."""
        with self._fitting.data.work.autocast():
            parts = self._fitting.loss(self.net, batch, *given)  # type: ignore[call-arg, arg-type]
        return parts, dict(self.net.named_buffers())


class _Training:
    """Trainings that agree, from stacks to answers."""

    def __init__(self, fittings: Sequence[Fitting]) -> None:
        self._fittings, self._first = fittings, fittings[0]
        self._call, self._work = _WithLoss(self._first), self._first.data.work
        self._stack, self._batches = Stack(fittings), StackedBatches(fittings)
        weights = [fitting.data.class_weights for fitting in fittings]
        self._class_weights = None if weights[0] is None else torch.stack([each for each in weights if each is not None])
        self._changing = self._first.parts.changing
        self._names: list[str] = []
        self._logged: list[tuple[int, int, int, Tensor]] = []
        #: What losses leave in the plain attributes of what they are given, by the sizes of the batches until then.
        self._left: dict[tuple[int, ...], Any] = {(): self._first.given}

    def carry_out(self) -> None:
        """Train, and change nothing but the stacks."""
        used = self._used()
        self._optimizer = StackedOptimizer(self._stack, used)
        for step in range(max(len(fitting.sizes) for fitting in self._fittings)):
            for start, end in self._runs(step):
                self._step(start, end, step, used)

    def _runs(self, step: int) -> Iterator[tuple[int, int]]:
        """The clients that stand beside each other and whose batches at this step have one size; nobody who has done."""

        def alike(place: int) -> tuple[int, ...]:
            sizes = self._fittings[place].sizes
            if len(sizes) <= step:
                return ()
            return sizes[: step + 1] if self._changing else sizes[step : step + 1]

        for sizes, places in groupby(range(len(self._fittings)), alike):
            if sizes:
                start, *rest = places
                yield start, start + len(rest) + 1

    def _step(self, start: int, end: int, step: int, used: list[str]) -> None:
        stack, some = self._stack, slice(start, end)
        before = self._first.sizes[:0] if not self._changing else self._fittings[start].sizes[:step]
        given = [tensor if same else tensor[some] for tensor, same in zip(stack.given, stack.shared, strict=True)]
        teachers = [
            held if same else {name: tensor[some] for name, tensor in held.items()}
            for held, same in zip(stack.teachers, stack.teachers_shared, strict=True)
        ]
        weights = None if self._class_weights is None else self._class_weights[some]
        held = ({name: tensor[some] for name, tensor in stacks.items()} for stacks in (stack.frozen, stack.buffers))
        values = ({name: stack.trained[name][some] for name in used}, self._unused(some, used), *held, teachers, given)

        def parts_of(*values: Any) -> Any:
            return self._loss(self._left[before], *values)

        once = [None if same else 0 for same in stack.shared], [None if same else 0 for same in stack.teachers_shared]
        dims = (0, 0, 0, 0, once[1], once[0], None if weights is None else 0, 0)
        gradients, (logged, buffers, changed) = vmap(grad(parts_of, has_aux=True), in_dims=dims)(
            *values, weights, self._batches.of(start, end, step)
        )
        for name, buffer in buffers.items():
            stack.buffers[name][some].copy_(buffer)
        for place, tensor in zip(self._changing, changed, strict=True):
            stack.given[place][some].copy_(tensor)
        if self._changing:
            self._left[self._fittings[start].sizes[: step + 1]] = self._now
        self._logged.append((start, end, step, logged))
        if self._work.settings.clip:
            clip(gradients, self._work.settings.clip)
        self._optimizer.step(start, end, gradients, step)

    def _unused(self, some: slice | int, used: list[str]) -> dict[str, Tensor]:
        return {name: tensor[some] for name, tensor in self._stack.trained.items() if name not in used}

    def _loss(
        self,
        like: tuple[Any, ...],
        used: dict[str, Tensor],
        unused: dict[str, Tensor],
        frozen: dict[str, Tensor],
        buffers: dict[str, Tensor],
        teachers: list[dict[str, Tensor]],
        given: list[Tensor],
        class_weights: Tensor | None,
        batch: tuple[Any, Tensor, Tensor, Tensor],
    ) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor], list[Tensor]]]:
        """One client's loss; beside it what is logged, its net's buffers, and the tensors that its loss has changed."""
        weights = {f"net.{name}": tensor for held in (used, unused, frozen, buffers) for name, tensor in held.items()}
        for number, held in enumerate(teachers):
            weights |= {f"teachers.{number}.{name}": tensor for name, tensor in held.items()}
        values = put_together(like, given)
        parts, buffers = functional_call(self._call, weights, (OneOfMany(*batch, self._work, class_weights), values))
        total, self._names, self._now = sum_of(parts), [*parts], values
        logged = torch.stack([*(part.detach().float() for part in parts.values()), total.detach().float()])
        tensors = taken_apart(values).tensors
        return total, (logged, buffers, [tensors[place] for place in self._changing])

    def _used(self) -> list[str]:
        """The parameters that the loss reaches: of the others an optimiser leaves the momentum and decay alone."""
        stack = self._stack
        trained = {name: tensor[0].clone().requires_grad_() for name, tensor in stack.trained.items()}
        held = ({name: tensor[0].clone() for name, tensor in stacks.items()} for stacks in (stack.frozen, stack.buffers))
        given = [(tensor if same else tensor[0]).clone() for tensor, same in zip(stack.given, stack.shared, strict=True)]
        teachers = [
            all_ if same else {name: tensor[0] for name, tensor in all_.items()}
            for all_, same in zip(stack.teachers, stack.teachers_shared, strict=True)
        ]
        weights = None if self._class_weights is None else self._class_weights[0]
        inputs, *rest = self._batches.of(0, 1, 0)
        batch = (
            {k: v[0] for k, v in inputs.items()} if isinstance(inputs, Mapping) else inputs[0],
            *(each[0] for each in rest),
        )
        total, _ = self._loss(self._first.given, trained, {}, *held, teachers, given, weights, batch)  # type: ignore[arg-type]
        gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
        return [name for name, gradient in zip(trained, gradients, strict=True) if gradient is not None]

    def finish(self) -> list[Answer]:
        """Write all back to the clients, and answer each."""
        self._stack.write_back()
        self._optimizer.write_back()
        for fitting in self._fittings:
            if self._changing:
                leave(fitting.given, self._left[fitting.sizes])
        steps, names = max(len(fitting.sizes) for fitting in self._fittings), [*self._names, "loss"]
        logged = torch.zeros(len(self._fittings), steps, len(names), dtype=torch.float64)
        for start, end, step, values in self._logged:
            logged[start:end, step] = values.cpu().double()
        sizes = [[*fitting.sizes, *[0] * (steps - len(fitting.sizes))] for fitting in self._fittings]
        shares = torch.tensor(sizes, dtype=torch.float64)
        means = ((shares / shares.sum(1, keepdim=True))[:, None] @ logged)[:, 0]  # (K, parts)
        largest = torch.stack([tensor.flatten(1).abs().amax(1).float() for tensor in self._stack.trained.values()]).amax(0)
        fine = means.isfinite().all(1) & (largest.cpu() <= MAX_MAGNITUDE)
        answers: list[Answer] = [dict(zip(names, row, strict=True)) for row in means.tolist()]
        for place in (~fine).nonzero()[:, 0].tolist():
            answers[place] = self._error(place, logged[place], names)
        return answers

    def _error(self, place: int, logged: Tensor, names: list[str]) -> Exception:
        """What the loop raises of this client."""
        fitting = self._fittings[place]
        try:
            where, sizes = fitting.data.work.where, list(fitting.sizes)
            mean_losses(names, logged[: len(sizes)], sizes, where, fitting.passes)
            check_weights(fitting.net, where)
        except TrainingError as error:
            return error
        raise AssertionError("the loop finds nothing wrong with it")
