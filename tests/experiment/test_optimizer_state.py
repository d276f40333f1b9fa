"""An optimiser that is put away and taken up again goes on as if it had not been."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fedkd.base.errors import TrainingError
from fedkd.experiment.algorithm.optimizer_state import optimizer_state, restore_optimizer, trainable


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("kind", "arguments"), [(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}), (torch.optim.Adam, {})]
)
@pytest.mark.parametrize("fused", [True, False])
def test_a_step_after_restoring_is_the_step_without(
    layout: torch.memory_format, kind: type[torch.optim.Optimizer], arguments: dict[str, Any], fused: bool
) -> None:
    """The state comes back from memory, where tensors are contiguous; the weights of a convolution may be channels-last."""
    gradients = [torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]

    def trained(*, put_away_after: int) -> torch.Tensor:
        net = nn.Conv2d(3, 4, 3, bias=False).to(memory_format=layout)  # type: ignore[call-overload]
        nn.init.constant_(net.weight, 0.5)
        optimizer = kind(net.parameters(), lr=0.1, fused=fused, **arguments)
        for step, gradient in enumerate(gradients):
            if step == put_away_after:
                kept = {name: value.contiguous() for name, value in optimizer_state(optimizer).items()}
                optimizer = kind(net.parameters(), lr=0.1, fused=fused, **arguments)
                restore_optimizer(optimizer, kept)
            net.weight.grad = gradient.clone(memory_format=torch.preserve_format).contiguous(memory_format=layout)
            optimizer.step()
        return net.weight.detach()

    assert torch.equal(trained(put_away_after=2), trained(put_away_after=-1))


def test_only_what_is_not_frozen_is_trained_and_something_must_be() -> None:
    net = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    assert trainable(net, "client 1, round 2") == list(net[1].parameters())
    with pytest.raises(TrainingError, match="client 1, round 2: there is nothing to train: all parameters are frozen"):
        trainable(net.requires_grad_(False), "client 1, round 2")


@pytest.mark.parametrize("others", [nn.Linear(3, 2), nn.Linear(2, 2, bias=False)])
def test_state_of_other_parameters_is_not_put_to_these(others: nn.Linear) -> None:
    """As where what is frozen changed between two rounds."""
    net = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="the optimiser was kept for other parameters"):
        restore_optimizer(torch.optim.Adam(others.parameters()), optimizer_state(optimizer))
