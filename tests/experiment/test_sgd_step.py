"""SGD's step, taken by torch and by fedkd, gives the same bits."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from fedkd.experiment.algorithm.sgd_step import step_fused
from fedkd.experiment.algorithm.step import take_step

SETTINGS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"momentum": 0.5, "dampening": 0.1, "maximize": True},
]


def optimizer_of(**settings: Any) -> torch.optim.SGD:
    rng = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(size, generator=rng)) for size in ((3, 2), (5,))]
    return torch.optim.SGD(parameters, lr=0.1, fused=True, **settings)


def give_gradients(optimizer: torch.optim.SGD, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.randn(parameter.shape, generator=rng)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_bits_are_those_of_torch(settings: dict[str, Any]) -> None:
    theirs, ours = optimizer_of(**settings), optimizer_of(**settings)
    for step in range(3):
        give_gradients(theirs, step)
        give_gradients(ours, step)
        theirs.step()
        assert step_fused(ours)
        for expected, parameter in zip(theirs.param_groups[0]["params"], ours.param_groups[0]["params"], strict=True):
            assert torch.equal(parameter, expected)
            assert all(torch.equal(ours.state[parameter][key], value) for key, value in theirs.state[expected].items())


def test_what_one_call_cannot_do_is_left_to_torch() -> None:
    optimizer = optimizer_of(momentum=0.9)
    before = [parameter.clone() for parameter in optimizer.param_groups[0]["params"]]
    assert not step_fused(optimizer)  # no gradients
    give_gradients(optimizer, 0)
    optimizer.param_groups[0]["fused"] = False
    assert not step_fused(optimizer)
    assert all(map(torch.equal, optimizer.param_groups[0]["params"], before))


def test_a_scheduler_of_torch_sees_the_steps_and_does_not_warn() -> None:
    optimizer = optimizer_of()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    give_gradients(optimizer, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take_step(optimizer)
        schedule.step()
    assert schedule.get_last_lr() == [0.05]
