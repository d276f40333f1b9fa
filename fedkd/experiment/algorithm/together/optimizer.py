"""One optimiser for the stacked weights of many clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from fedkd.experiment.algorithm.step import make_optimizer, take_step
from fedkd.experiment.algorithm.together.alike import optimizer_of, remembered, steps_of
from fedkd.experiment.algorithm.together.stack import Stack


@final
class StackedOptimizer:
    """One optimiser of torch's for the stacks of all clients: its steps go number by number, so each client's are its own."""

    def __init__(self, stack: Stack, used: Sequence[str]) -> None:
        self._fittings = stack.fittings
        first = stack.fittings[0]
        self._like = first.optimizer or make_optimizer(first.net, first.data.work)
        optimizer_of(self._like)
        self._numbers = {key: value for key, value in self._like.param_groups[0].items() if key != "params"}
        self._steps, self._used, self._trained = steps_of(self._like), used, stack.tensors.trained
        self._state = {key: {name: self._kept(name, key) for name in used} for key in remembered(self._like)}
        self._of_range: dict[tuple[int, int], tuple[torch.optim.Optimizer, list[Tensor]]] = {}

    def _kept(self, name: str, key: str) -> Tensor:
        """(K, ...): what the clients' optimisers remember of a parameter, zeros where it is nothing yet."""
        stack = self._trained[name]
        kept = torch.zeros_like(stack)
        for place, fitting in enumerate(self._fittings):
            state = fitting.optimizer.state.get(fitting.parameters[name], {}) if fitting.optimizer else {}
            if state.get(key) is not None:
                kept[place] = state[key]
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
        take_step(optimizer)
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
