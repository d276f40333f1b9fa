"""Nets of one structure in stacks: each parameter and buffer of K clients as one tensor (K, ...)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from fedkd.experiment.algorithm.together.alike import Alone
from fedkd.experiment.algorithm.together.fitting import Fitting
from fedkd.experiment.algorithm.together.given import tensors_of


class Tensors(NamedTuple):
    """What a loss computes with, of one client or of many: of many each tensor is (K, ...), or is all clients' alike."""

    trained: dict[str, Tensor]
    frozen: dict[str, Tensor]
    buffers: dict[str, Tensor]
    teachers: list[dict[str, Tensor]]  # of the nets that a loss is given
    given: list[Tensor]  # the tensors that it is given
    class_weights: Tensor | None


@final
class Stack:
    """The tensors of some trainings.

    What all losses are given alike, the very same tensor or nets of equal weights, stands there once and not K times.
    """

    def __init__(self, fittings: Sequence[Fitting]) -> None:
        self.fittings = fittings
        first = fittings[0]
        parameters, buffers = [fitting.parameters for fitting in fittings], [fitting.buffers for fitting in fittings]
        trained = [name for name, parameter in first.parameters.items() if parameter.requires_grad]
        frozen = [name for name in first.parameters if name not in trained]
        given, of_given = self._given()
        teachers, of_teachers = self._teachers()
        weights = [each for fitting in fittings if (each := fitting.data.class_weights) is not None]
        self.tensors = Tensors(
            {name: _stacked(parameters, name) for name in trained},
            {name: _stacked(parameters, name) for name in frozen},
            {name: _stacked(buffers, name) for name in first.buffers},
            teachers,
            given,
            torch.stack(weights) if weights else None,
        )
        stacked: list[Any] = [dict.fromkeys(held, 0) for held in (trained, frozen, first.buffers)]
        #: Which of them are stacks: 0; and which are all clients' alike: None.
        self.dims = Tensors(*stacked, *(of_teachers, of_given), 0 if weights else None)  # type: ignore[call-arg]

    def of(self, some: slice | int) -> Tensors:
        """Of these clients, or of one. Views: what is written into them is written into the stacks."""

        def part(value: Any, dims: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: part(held, dims[name]) for name, held in value.items()}
            if isinstance(value, list):
                return [part(*each) for each in zip(value, dims, strict=True)]
            return value if dims is None else value[some]

        return Tensors(*(part(*each) for each in zip(self.tensors, self.dims, strict=True)))

    def largest(self) -> Tensor:
        """(K,): the largest magnitude among each client's trained weights; not a number where one is none."""
        return torch.stack([tensor.flatten(1).abs().amax(1).float() for tensor in self.tensors.trained.values()]).amax(0)

    @torch.no_grad()
    def write_back(self) -> None:
        """Leave in each client's net, and in what its loss was given, what the stacks hold."""
        for name, stack in self.tensors.trained.items():
            torch._foreach_copy_([fitting.parameters[name] for fitting in self.fittings], stack.unbind())
        for name, stack in self.tensors.buffers.items():
            torch._foreach_copy_([fitting.buffers[name] for fitting in self.fittings], stack.unbind())
        for place in self.fittings[0].parts.changing:
            changed = [fitting.parts.tensors[place] for fitting in self.fittings]
            torch._foreach_copy_(changed, self.tensors.given[place].unbind())

    def _given(self) -> tuple[list[Tensor], list[int | None]]:
        changing = set(self.fittings[0].parts.changing)
        tensors, dims = list[Tensor](), list[int | None]()
        for place, of_all in enumerate(zip(*(fitting.parts.tensors for fitting in self.fittings), strict=True)):
            same = place not in changing and all(tensor is of_all[0] for tensor in of_all)
            tensors.append(of_all[0].detach() if same else torch.stack([tensor.detach() for tensor in of_all]))
            dims.append(None if same else 0)
        return tensors, dims

    def _teachers(self) -> tuple[list[dict[str, Tensor]], list[dict[str, int | None]]]:
        stacks, dims = list[dict[str, Tensor]](), list[dict[str, int | None]]()
        for modules in zip(*(fitting.parts.modules for fitting in self.fittings), strict=True):
            held = [tensors_of(module) for module in modules]
            if any(tensor.requires_grad for tensor in held[0].values()):
                raise Alone("its loss is given a net that is trained, or might be: requires_grad_(False)")
            same = not modules[0].training and all(
                all(torch.equal(tensor, other[name]) for name, tensor in held[0].items()) for other in held[1:]
            )
            stacks.append(held[0] if same else {name: _stacked(held, name) for name in held[0]})
            dims.append(dict.fromkeys(held[0], None if same else 0))
        return stacks, dims


def _stacked(of_all: Sequence[dict[str, Any]], name: str) -> Tensor:
    """(K, ...), contiguous whatever the nets' memory format: fused steps go through weights and gradients in one order."""
    return torch.stack([each[name].detach() for each in of_all]).contiguous()
