"""SGD's step, taken by torch and by fedkd, gives the same bits."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from fedkd.experiment.algorithm.sections import Training
from fedkd.experiment.algorithm.sgd_step import step_fused
from fedkd.experiment.algorithm.step import descend_each, take_step
from fedkd.experiment.algorithm.work import Work

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


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_parameter_whose_first_gradient_comes_late_begins_with_no_momentum(scheduled: bool) -> None:
    """torch's own fused step raises a TypeError there; one that is not fused takes it in its stride."""
    nets = [nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)]) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [
        torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=fused)
        for net, fused in zip(nets, (True, False), strict=True)
    ]
    if scheduled:
        _ = [torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5) for optimizer in optimizers]
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for layers in (1, 2, 2):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            torch.stack([layer(inputs).square().sum() for layer in net[:layers]]).sum().backward()
            take_step(optimizer)
    for mine, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_each_of_several_optimisers_goes_down_its_own_part_from_one_pass() -> None:
    """Of channels-last maps the raw gradient of a transposed convolution lies otherwise than its weight."""
    torch.manual_seed(0)
    net, layer = nn.Conv2d(2, 4, 3, bias=False), nn.ConvTranspose2d(4, 3, 3, bias=False)
    work = Work(Training(), 0.1, torch.device("cpu"), "none", "here")
    held = net(torch.randn(5, 2, 6, 6).to(memory_format=torch.channels_last))
    of_net, of_layer = {"net": layer(held).square().mean()}, {"layer": layer(held.detach()).exp().sum()}
    expected = []
    for part, loss in ((net, of_net["net"]), (layer, of_layer["layer"])):
        (slope,) = torch.autograd.grad(loss, [part.weight], retain_graph=True)
        expected.append(part.weight.detach() - 0.01 * slope / (slope.abs() + 1e-8))  # a first step of Adam
    optimizers = [torch.optim.Adam(part.parameters(), lr=0.01, fused=True) for part in (net, layer)]
    told = descend_each([(of_net, optimizers[0]), (of_layer, optimizers[1])], work)
    for part, weight in zip((net, layer), expected, strict=True):
        torch.testing.assert_close(part.weight.detach(), weight, rtol=1e-4, atol=1e-5)
    losses = [of_net["net"].item(), of_layer["layer"].item()]
    assert told.tolist() == pytest.approx([*losses, sum(losses)])
