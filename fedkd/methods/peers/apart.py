"""Parts of a peer's loss that optimisers of their own descend: decoders, discriminators, what these want of the features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.step import descend, descend_each
from fedkd.experiment.algorithm.work import Work


@final
@dataclass(frozen=True)
class Apart:
    """Parts of a loss that an optimiser of its own descends, at the same time as the peer's descends the rest.

    Args:
        module: what it trains, a part of the peer's net.
        parts: their names.
        settings: of its optimiser, in place of those of [train]: ``kind``, ``lr``, ``weight_decay``.
    """

    module: nn.Module
    parts: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def step_each(
    client: Client, parts: Mapping[str, Tensor], own: torch.optim.Optimizer, apart: Mapping[str, Apart], work: Work
) -> Tensor:
    """Take one step of every optimiser from one forward pass.

    Args:
        client: keeps the optimisers, each under its name in ``apart``.
        parts: of the loss, all.
        own: descends those that are not apart.
        apart: what others descend.
        work: the settings.

    Returns:
        (parts + 1,) float32: each part, ``in_order``, then the sum of all.
    """
    if not apart:
        return descend(parts, own, work)
    others = {name for each in apart.values() for name in each.parts}
    tasks = [({name: part for name, part in parts.items() if name not in others}, own)]
    for name, each in apart.items():
        tasks.append(({part: parts[part] for part in each.parts}, client.optimizer(name, each.module, **each.settings)))
    return descend_each(tasks, work)


def in_order(parts: Mapping[str, Tensor], apart: Mapping[str, Apart]) -> list[str]:
    """The names of the parts as ``step_each`` gives them: first those that are not apart."""
    others = [name for each in apart.values() for name in each.parts]
    return [*(name for name in parts if name not in others), *others]


def scheduled(client: Client, lr: float) -> float:
    """A rate that starts at ``lr``, and follows the schedule of [train]."""
    return lr * client.work().lr / client.experiment.train.lr
