"""Trainings that agree, as one: step by step, one vmapped gradient for those whose batches are of one size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedkd.base.errors import TrainingError
from fedkd.experiment.algorithm.step import sum_of
from fedkd.experiment.algorithm.together.batches import OneOfMany, StackedBatches
from fedkd.experiment.algorithm.together.fitting import Fitting
from fedkd.experiment.algorithm.together.given import leave, put_together, taken_apart
from fedkd.experiment.algorithm.together.optimizer import StackedOptimizer, clip
from fedkd.experiment.algorithm.together.stack import Stack, Tensors
from fedkd.experiment.algorithm.trained import check_weights, mean_losses
from fedkd.knowledge.knowledge import MAX_MAGNITUDE

#: What ``fit`` returns, or what it raises.
Answer = dict[str, float] | Exception


@final
class _WithLoss(nn.Module):
    """A net and the nets that its loss is given, so that ``functional_call`` puts other weights into all of them."""

    def __init__(self, fitting: Fitting) -> None:
        super().__init__()
        self.net, self.teachers, self._fitting = fitting.net, nn.ModuleList(fitting.parts.modules), fitting

    def forward(self, batch: OneOfMany, given: tuple[Any, ...]) -> tuple[Mapping[str, Tensor], dict[str, Tensor]]:
        """The parts of the loss, and the net's buffers as the forward pass leaves them."""
        with self._fitting.data.work.autocast():
            parts = self._fitting.loss(self.net, batch, *given)
        return parts, dict(self.net.named_buffers())


@final
class Training:
    """Trainings that agree, those of clients with equal batches beside each other."""

    def __init__(self, fittings: Sequence[Fitting]) -> None:
        self._fittings, self._first, self._work = fittings, fittings[0], fittings[0].data.work
        self._call = _WithLoss(self._first)
        self._stack, self._batches = Stack(fittings), StackedBatches(fittings)
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
        """From where to where clients stand beside each other whose batches at this step have one size; nobody who has done."""

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
        """One step of these clients."""
        sizes = self._fittings[start].sizes
        like = self._left[sizes[:step] if self._changing else ()]
        tensors, dims = self._stack.of(slice(start, end)), self._stack.dims
        trained = {name: tensors.trained[name] for name in used}

        def loss_of(trained: dict[str, Tensor], tensors: Tensors, batch: Any) -> Any:
            return self._loss(like, tensors._replace(trained={**tensors.trained, **trained}), batch)

        batch = self._batches.of(start, end, step)
        gradients, left = vmap(grad(loss_of, has_aux=True), in_dims=(0, dims, 0))(trained, tensors, batch)
        logged, buffers, changed = left
        for name, buffer in buffers.items():
            tensors.buffers[name].copy_(buffer)
        for place, tensor in zip(self._changing, changed, strict=True):
            tensors.given[place].copy_(tensor)
        if self._changing:
            self._left[sizes[: step + 1]] = self._now
        self._logged.append((start, end, step, logged))
        if self._work.settings.clip:
            clip(gradients, self._work.settings.clip)
        self._optimizer.step(start, end, gradients, step)

    def _loss(self, like: tuple[Any, ...], tensors: Tensors, batch: Any) -> tuple[Tensor, Any]:
        """One client's loss; beside it what is logged, its net's buffers, and the tensors that its loss has changed."""
        weights = {f"net.{name}": tensor for held in tensors[:3] for name, tensor in held.items()}
        for number, teacher in enumerate(tensors.teachers):
            weights |= {f"teachers.{number}.{name}": tensor for name, tensor in teacher.items()}
        given = put_together(like, tensors.given)
        inputs, labels, ids, positions = batch
        seen = OneOfMany(inputs, labels, ids, positions, self._work, tensors.class_weights)
        parts, buffers = functional_call(self._call, weights, (seen, given))
        total, self._names, self._now = sum_of(parts), [*parts], given
        logged = torch.stack([*(part.detach().float() for part in parts.values()), total.detach().float()])
        after = taken_apart(given).tensors if self._changing else []
        return total, (logged, buffers, [after[place] for place in self._changing])

    def _used(self) -> list[str]:
        """The parameters that the loss reaches: of the others an optimiser leaves momentum and decay alone."""
        tensors = self._stack.of(0)
        trained = {name: tensor.clone().requires_grad_() for name, tensor in tensors.trained.items()}
        buffers = {name: tensor.clone() for name, tensor in tensors.buffers.items()}
        given = [tensor.clone() for tensor in tensors.given]
        inputs, *rest = self._batches.of(0, 1, 0)
        first = {name: each[0] for name, each in inputs.items()} if isinstance(inputs, Mapping) else inputs[0]
        tensors = tensors._replace(trained=trained, buffers=buffers, given=given)
        total, _ = self._loss(self._first.given, tensors, (first, *(each[0] for each in rest)))
        gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
        return [name for name, gradient in zip(trained, gradients, strict=True) if gradient is not None]

    def finish(self) -> list[Answer]:
        """Write all back to the clients, and answer each."""
        self._stack.write_back()
        self._optimizer.write_back()
        for fitting in self._fittings if self._changing else ():
            leave(fitting.given, self._left[fitting.sizes])
        steps, names = max(len(fitting.sizes) for fitting in self._fittings), [*self._names, "loss"]
        logged = torch.zeros(len(self._fittings), steps, len(names), dtype=torch.float64)
        for start, end, step, values in self._logged:
            logged[start:end, step] = values.cpu().double()
        sizes = [[*fitting.sizes, *[0] * (steps - len(fitting.sizes))] for fitting in self._fittings]
        shares = torch.tensor(sizes, dtype=torch.float64)
        means = ((shares / shares.sum(1, keepdim=True))[:, None] @ logged)[:, 0]  # (K, parts)
        fine = means.isfinite().all(1) & (self._stack.largest().cpu() <= MAX_MAGNITUDE)
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
