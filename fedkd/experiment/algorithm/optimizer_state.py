"""What an optimiser is given, and what it remembers (momentum, moments, step counts), as tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedkd.base.errors import TrainingError

#: How the name of what is a number of Python's begins, as the step count of some users' optimisers.
NUMBER = "number/"


def trainable(net: nn.Module, where: str) -> list[nn.Parameter]:
    """The parameters that are not frozen: what an optimiser gets, so that no weight decay moves the others.

    Raises:
        TrainingError: all are frozen.
    """
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if not parameters:
        raise TrainingError(f"{where}: there is nothing to train: all parameters are frozen (requires_grad = False)")
    return parameters


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Its tensors by the parameter's position and their name, as ``restore_optimizer`` takes them."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {(i, key): value for i, p in enumerate(parameters) for key, value in optimizer.state.get(p, {}).items()}
    numbers = {
        f"{i}/{NUMBER}{key}": torch.tensor(value)
        for (i, key), value in state.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {f"{i}/{key}": value for (i, key), value in state.items() if isinstance(value, Tensor)} | numbers


def restore_optimizer(optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
    """Give a new optimiser of the same parameters what ``optimizer_state`` kept. ValueError where they are others."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in kept.items():
        i, _, key = name.partition("/")
        if int(i) >= len(parameters) or value.shape not in ((), parameters[int(i)].shape):
            raise ValueError(
                f"the optimiser was kept for other parameters ({name} of {tuple(value.shape)}, {len(parameters)} are trained "
                "now): freeze the same ones all the time"
            )
        target = parameters[int(i)]
        number = key.startswith(NUMBER)
        optimizer.state[target][key.removeprefix(NUMBER)] = value.item() if number else _like(target, value)


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A copy on the parameter's device (of a step count too), laid out as it: fused steps go through both in one order."""
    if value.shape != parameter.shape:
        return value.clone().to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
