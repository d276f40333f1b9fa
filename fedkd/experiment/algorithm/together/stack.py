"""Nets of one structure in stacks: each parameter and buffer of K clients as one tensor (K, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from fedkd.experiment.algorithm.step import make_optimizer
from fedkd.experiment.algorithm.together.alike import Alone, optimizer_of, remembered, steps_of
from fedkd.experiment.algorithm.together.fitting import Fitting
from fedkd.experiment.algorithm.together.given import tensors_of


@final
class Stack:
    """The tensors of some trainings: what is trained, what else the nets hold, what their losses are given.

    A tensor that all losses are given, the very same or that of nets with equal weights, stands there once and not K times.
    """

    def __init__(self, fittings: Sequence[Fitting]) -> None:
        self.fittings = fittings
        first = fittings[0]
        parameters, buffers = [fitting.parameters for fitting in fittings], [fitting.buffers for fitting in fittings]
        trained = [name for name, parameter in first.parameters.items() if parameter.requires_grad]
        self.trained = {name: _stacked(parameters, name) for name in trained}
        self.frozen = {name: _stacked(parameters, name) for name in first.parameters if name not in self.trained}
        self.buffers = {name: _stacked(buffers, name) for name in first.buffers}
        self.given, self.shared = self._given(fittings)
        self.teachers, self.teachers_shared = self._teachers(fittings)

    @staticmethod
    def _given(fittings: Sequence[Fitting]) -> tuple[list[Tensor], list[bool]]:
        changing = set(fittings[0].parts.changing)
        tensors, shared = [], []
        for place, of_all in enumerate(zip(*(fitting.parts.tensors for fitting in fittings), strict=True)):
            same = place not in changing and all(tensor is of_all[0] for tensor in of_all)
            tensors.append(of_all[0].detach() if same else torch.stack([tensor.detach() for tensor in of_all]))
            shared.append(same)
        return tensors, shared

    @staticmethod
    def _teachers(fittings: Sequence[Fitting]) -> tuple[list[dict[str, Tensor]], list[bool]]:
        stacks, shared = [], []
        for modules in zip(*(fitting.parts.modules for fitting in fittings), strict=True):
            held = [tensors_of(module) for module in modules]
            if any(tensor.requires_grad for tensor in held[0].values()):
                raise Alone("its loss is given a net that is trained, or might be: requires_grad_(False)")
            same = not modules[0].training and all(
                all(torch.equal(tensor, other[name]) for name, tensor in held[0].items()) for other in held[1:]
            )
            stacks.append(held[0] if same else {name: _stacked(held, name) for name in held[0]})
            shared.append(same)
        return stacks, shared

    @torch.no_grad()
    def write_back(self) -> None:
        """Leave in each client's net and in what its loss was given what the stacks hold."""
        for stacks, own in (
            (self.trained, [fitting.parameters for fitting in self.fittings]),
            (self.buffers, [fitting.buffers for fitting in self.fittings]),
        ):
            for name, stack in stacks.items():
                torch._foreach_copy_([held[name] for held in own], stack.unbind())
        for changed in self.fittings[0].parts.changing:
            torch._foreach_copy_([fitting.parts.tensors[changed] for fitting in self.fittings], self.given[changed].unbind())


@final
class StackedOptimizer:
    """One optimiser of torch's for the stacks of all clients: its steps go number by number, so that each client's are its own."""

    def __init__(self, stack: Stack, used: Sequence[str]) -> None:
        self._fittings = stack.fittings
        first = stack.fittings[0]
        self._like = first.optimizer or make_optimizer(first.net, first.data.work)
        optimizer_of(self._like)
        self._numbers = {key: value for key, value in self._like.param_groups[0].items() if key != "params"}
        self._steps, self._used, self._trained = steps_of(self._like), used, stack.trained
        self._state = {key: {name: self._kept(name, key) for name in used} for key in remembered(self._like)}
        self._of_range: dict[tuple[int, int], tuple[torch.optim.Optimizer, list[Tensor]]] = {}

    def _kept(self, name: str, key: str) -> Tensor:
        """(K, ...): what the clients' optimisers remember of a parameter, zeros where it is nothing yet."""
        stack = self._trained[name]
        kept = torch.zeros_like(stack)
        for place, fitting in enumerate(self._fittings):
            if fitting.optimizer and (state := fitting.optimizer.state.get(fitting.parameters[name])):
                if (value := state.get(key)) is not None:
                    kept[place] = value
        return kept

    def _of(self, start: int, end: int) -> tuple[torch.optim.Optimizer, list[Tensor]]:
        """The optimiser of the clients from ``start`` to ``end``, on views of their stacks."""
        if (start, end) not in self._of_range:
            leaves = [self._trained[name][start:end] for name in self._used]
            optimizer = type(self._like)(leaves, lr=self._numbers["lr"])  # type: ignore[call-arg]
            optimizer.param_groups[0].update(self._numbers)
            for name, leaf in zip(self._used, leaves, strict=True):
                state: dict[str, Any] = {key: stacks[name][start:end] for key, stacks in self._state.items()}
                if not isinstance(self._like, torch.optim.SGD):
                    state["step"] = torch.tensor(0.0, device=leaf.device)
                if state:
                    optimizer.state[leaf] = state
            self._of_range[start, end] = optimizer, leaves
        return self._of_range[start, end]

    def step(self, start: int, end: int, gradients: dict[str, Tensor], number: int) -> None:
        """The step ``number`` of these clients, from 0, down gradients (end - start, ...) by parameter."""
        optimizer, leaves = self._of(start, end)
        for name, leaf in zip(self._used, leaves, strict=True):
            leaf.grad = gradients[name].contiguous()
            if "step" in optimizer.state[leaf]:
                optimizer.state[leaf]["step"].fill_(self._steps + number)
        optimizer.step()
        for leaf in leaves:
            leaf.grad = None

    @torch.no_grad()
    def write_back(self) -> None:
        """Leave in each client's optimiser, where it has one that lasts, what it would remember."""
        for place, fitting in enumerate(self._fittings):
            if fitting.optimizer is None:
                continue
            for name in self._used:
                parameter = fitting.parameters[name]
                state = fitting.optimizer.state[parameter]
                for key, stacks in self._state.items():
                    state[key] = torch.empty_like(parameter, requires_grad=False).copy_(stacks[name][place])
                if not isinstance(self._like, torch.optim.SGD):
                    state["step"] = torch.tensor(self._steps + len(fitting.draws), device=parameter.device)


def clip(gradients: dict[str, Tensor], largest: float) -> None:
    """Shorten each client's gradients (K, ...) to this norm, all its parameters together, as ``clip_grad_norm_`` does."""
    norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients.values()])
    factors = (largest / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)  # (K,)
    for gradient in gradients.values():
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))


def _stacked(of_all: Sequence[dict[str, Any]], name: str) -> Tensor:
    """(K, ...), contiguous whatever the nets' memory format: fused steps go through weights and gradients in one order."""
    return torch.stack([each[name].detach() for each in of_all]).contiguous()
