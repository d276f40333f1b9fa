"""One step of training: the optimiser that takes it, and the gradient that it goes down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fedkd.base.compiler import leave_compiler_out
from fedkd.base.errors import InputError
from fedkd.base.user_code import import_object
from fedkd.experiment.algorithm.optimizer_state import trainable
from fedkd.experiment.algorithm.sgd_step import give_late_buffers, step_fused
from fedkd.experiment.algorithm.work import Work

_OF_TORCH: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
#: Their steps without what torch wraps around them for its profiler and compiler, which costs small nets more than the step.
_BARE_STEPS: dict[type[torch.optim.Optimizer], Any] = {kind: unwrap(kind.step) for kind in _OF_TORCH.values()}
#: Hooks for every optimiser of the process.
_HOOKS_OF_ALL = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)


def make_optimizer(net: nn.Module, work: Work, *, kind: str = "", **overrides: Any) -> torch.optim.Optimizer:
    """The optimiser of the [train] settings over the net's trainable parameters; ``overrides`` replace its arguments.

    ``kind`` is one of torch's by its name here, "adam" or another, in place of ``train.optimizer``, without its momentum.
    """
    leave_compiler_out()
    parameters = trainable(net, work.where)
    settings = work.settings
    kind = kind or settings.optimizer
    arguments: dict[str, Any] = {"lr": work.lr, "weight_decay": settings.weight_decay}
    if kind not in _OF_TORCH:
        return _of_user(kind, parameters, **arguments | overrides)
    arguments["fused"] = True
    if kind == settings.optimizer == "sgd":
        arguments |= {"momentum": settings.momentum, "nesterov": settings.nesterov}
    return _OF_TORCH[kind](parameters, **(arguments | overrides))


def _of_user(name: str, parameters: list[nn.Parameter], lr: float, weight_decay: float, **rest: Any) -> torch.optim.Optimizer:
    """What a user's function makes of parameters, learning rate and weight decay, by place."""
    function, takes = import_object(name), "it takes (parameters, lr, weight_decay) and returns a torch.optim.Optimizer"
    if not callable(function):
        raise InputError(f"train.optimizer: {name} is a {type(function).__name__}, not a function: {takes}")
    try:
        made = function(parameters, lr, weight_decay, **rest)
    except TypeError as error:
        raise InputError(f"train.optimizer: {name} fails ({error}): {takes}") from error
    if not isinstance(made, torch.optim.Optimizer):
        raise InputError(f"train.optimizer: {name} gives a {type(made).__name__}: {takes}")
    return made


def descend(
    parts: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, work: Work, *, place: int = 0, of: int = 1
) -> Tensor:
    """One step down the gradient of the parts' sum, clipped where the settings say so. Every step of training is this one.

    Args:
        parts: of the loss of a batch.
        optimizer: takes the step.
        work: the settings.
        place: of the batch among those of the step, from 0; the last one ends it.
        of: how many batches the step has; their gradients are averaged.

    Returns:
        (parts + 1,) float32: each part, then their sum.
    """
    if place == 0:
        for parameter in _parameters(optimizer):
            parameter.grad = None
    total = sum_of(parts)
    logged = torch.stack([*(part.detach().float() for part in parts.values()), total.detach().float()])
    scaler = _scaler(optimizer) if work.settings.precision == "fp16" else None
    share = total if of == 1 else total / of
    (scaler.scale(share) if scaler else share).backward()
    if place + 1 < of:
        return logged
    _end_step(optimizer, work, scaler)
    return logged


def descend_each(tasks: Sequence[tuple[Mapping[str, Tensor], torch.optim.Optimizer]], work: Work) -> Tensor:
    """Several steps from one forward pass: each optimiser goes down the gradient of its own parts of the loss.

    All gradients are taken before anybody steps. A parameter that several optimisers have is moved by each of them. Where all
    parts are constants, their optimiser takes no step: momentum and weight decay would move what has nothing to learn.

    Args:
        tasks: parts of the loss, and the optimiser that descends their sum.
        work: the settings.

    Returns:
        (parts + 1,) float32: each part in the order of the tasks, then the sum of all.
    """
    found: list[tuple[torch.optim.Optimizer, list[Tensor | None]]] = []
    for parts, optimizer in tasks:
        scaler = _scaler(optimizer) if work.settings.precision == "fp16" else None
        total, parameters = sum_of(parts), _parameters(optimizer)
        if not total.requires_grad:
            continue
        for parameter in parameters:
            parameter.grad = None
        # Unlike torch.autograd.grad this lays each gradient out as its parameter lies: a fused step goes through both in order.
        (scaler.scale(total) if scaler else total).backward(retain_graph=True, inputs=parameters)
        found.append((optimizer, [parameter.grad for parameter in parameters]))
    logged = {name: part.detach().float() for parts, _ in tasks for name, part in parts.items()}
    for optimizer, gradients in found:
        for parameter, gradient in zip(_parameters(optimizer), gradients, strict=True):
            parameter.grad = gradient
        _end_step(optimizer, work, _scaler(optimizer) if work.settings.precision == "fp16" else None)
    return torch.stack([*logged.values(), sum_of(logged)])


def _end_step(optimizer: torch.optim.Optimizer, work: Work, scaler: torch.amp.GradScaler | None) -> None:
    """Clip where the settings say so, and step."""
    if work.settings.clip:
        if scaler:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(_parameters(optimizer), work.settings.clip)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        take_step(optimizer)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def sum_of(parts: Mapping[str, Tensor]) -> Tensor:
    """The sum of all parts of a loss, in float32 or better."""
    first, *others = (part if part.dtype == torch.float64 else part.float() for part in parts.values())
    return sum(others, start=first)


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """``optimizer.step()``, bare where it is one of torch's that nobody counts the steps of or has hung a hook on."""
    bare = _BARE_STEPS.get(type(optimizer))
    counted = "step" in vars(optimizer)  # torch's schedulers put a step of their own there, and warn where it is passed by
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks, *_HOOKS_OF_ALL)
    whole = bare is None or counted or any(hooks)
    if isinstance(optimizer, torch.optim.SGD):
        if not whole and step_fused(optimizer):
            return
        give_late_buffers(optimizer)
    if whole or bare is None:
        optimizer.step()
        return
    with torch.no_grad():
        bare(optimizer)


def _scaler(optimizer: torch.optim.Optimizer) -> torch.amp.GradScaler:
    """What keeps float16 gradients from vanishing; it lives as long as the optimiser."""
    scaler: torch.amp.GradScaler = vars(optimizer).setdefault("gradient_scaler", torch.amp.GradScaler("cuda"))
    return scaler
