"""Every part of every strategy's loss moves a net: found by looking at each step of a run, at the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from test_every_strategy import NAMES, small
from torch import Tensor

from fedkd import simulate
from fedkd.experiment.algorithm import train
from fedkd.experiment.algorithm.train import Work
from fedkd.grids import InProcessGrid
from fedkd.methods.peers import lockstep

SMALLEST = 1e-7
#: Where a short run with a small net would never come to some part.
SETTINGS: dict[str, dict[str, Any]] = {
    "born_again": {"strategy": {"name": "born_again", "generation": 1}},  # the first has no teacher
    "byot": {"nets": "resnet18", "net_options": {"resnet18": {"width": 4}}},  # hints are for the third exit on
}


def gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """By part of the loss, the largest derivative by any parameter that a step moves, until one is above SMALLEST."""
    found: dict[str, float] = {}
    descend = train.descend

    def watched(parts: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, work: Work) -> Tensor:
        moved = [p for group in optimizer.param_groups for p in group["params"]]
        for part, value in parts.items():
            if found.get(part, 0.0) > SMALLEST:
                continue
            slopes = torch.autograd.grad(value, moved, retain_graph=True, allow_unused=True) if value.requires_grad else ()
            found[part] = max([found.get(part, 0.0), *(float(slope.abs().max()) for slope in slopes if slope is not None)])
        return descend(parts, optimizer, work)

    monkeypatch.setattr(train, "descend", watched)
    monkeypatch.setattr(lockstep, "descend", watched)
    simulate(small(name, **{"rounds": 3, **SETTINGS.get(name, {})}), InProcessGrid())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_part_of_the_loss_has_a_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = gradients(name, monkeypatch)
    assert found.keys() >= {"born_again": {"distillation"}, "byot": {"hint"}}.get(name, set())
    assert found
    assert {part: slope for part, slope in found.items() if not slope > SMALLEST} == {}
