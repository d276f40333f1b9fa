"""How a client's training waits for those of others, and what is told of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fedkd.base.errors import Notice
from fedkd.base.meeting import meet, tell
from fedkd.experiment.algorithm.counted_work import is_counting
from fedkd.experiment.algorithm.split import Draw, Loss, Split
from fedkd.experiment.algorithm.together.alike import Alone
from fedkd.experiment.algorithm.together.carry_out import carry_out
from fedkd.experiment.algorithm.together.fitting import Fitting


def fit_together(
    net: nn.Module,
    data: Split,
    loss: Loss,
    given: tuple[Any, ...],
    optimizer: torch.optim.Optimizer | None,
    draws: list[Draw],
    passes: float,
    after_step: Callable[[], None] | None,
) -> dict[str, float] | None:
    """``fit`` as one with those of other clients, whose words these are; None where nothing was done and it is to go on alone.

    A Notice says why.
    """
    try:
        if after_step:
            raise Alone("their strategy does something after each step")
        if is_counting():
            raise Alone("the virtual clock counts their operations")
        fitting = Fitting(net, data, loss, given, optimizer, draws, passes)
        # It waits with its net's weights, their gradients and what an optimiser remembers.
        losses: dict[str, float] = meet(carry_out, fitting, size=3 * fitting.bytes)
    except Alone as reason:
        warnings.warn(f"engine together: some trainings are carried out one by one: {reason}", Notice, stacklevel=2)
        tell(together=False)
        return None
    tell(together=True)
    return losses
