"""A step of torch's fused SGD without what torch does around its kernel, which costs a small net more than the kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SETTINGS = ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize")


@torch.no_grad()
def step_fused(optimizer: torch.optim.SGD) -> bool:
    """Take the step that ``optimizer.step()`` would take, to the bit; False, and nothing is done, where torch has to.

    That is where it is not fused, where a parameter has no gradient or a sparse one, or where they are of several types.
    """
    if not all(_is_plain(optimizer, group) for group in optimizer.param_groups):
        return False
    for group in optimizer.param_groups:
        parameters = group["params"]
        grads = [parameter.grad for parameter in parameters]
        states = [optimizer.state[parameter] for parameter in parameters] if group["momentum"] else []
        if is_first := any("momentum_buffer" not in state for state in states):
            for state, grad in zip(states, grads, strict=True):
                state["momentum_buffer"] = torch.empty_like(grad)
        buffers = [state["momentum_buffer"] for state in states]
        settings = {name: group[name] for name in _SETTINGS}
        torch._fused_sgd_(parameters, grads, buffers, is_first_step=is_first, **settings)
    return True


def give_late_buffers(optimizer: torch.optim.SGD) -> None:
    """A momentum of zero for each parameter whose first gradient comes after others': torch's fused SGD fails on that."""
    for group in optimizer.param_groups:
        states = [(parameter, optimizer.state[parameter]) for parameter in group["params"] if parameter.grad is not None]
        if group["momentum"] and any("momentum_buffer" in state for _, state in states):
            for parameter, state in states:
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)


def _is_plain(optimizer: torch.optim.SGD, group: dict[str, Any]) -> bool:
    """Whether one call of the kernel does it."""
    parameters: list[Tensor] = group["params"]
    if not (parameters and group["fused"] and type(group["lr"]) is float):
        return False
    kind = (parameters[0].dtype, parameters[0].device, torch.strided)
    for parameter in parameters:
        grad = parameter.grad
        if grad is None or (grad.dtype, grad.device, grad.layout) != kind:
            return False
    return len({"momentum_buffer" in optimizer.state[parameter] for parameter in parameters}) == 1
