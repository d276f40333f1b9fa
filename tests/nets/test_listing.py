"""What a net lists once must be what torch finds each time."""

from __future__ import annotations

import torch
from torch import nn

from fedkd.nets import build_net


def found_by_torch(net: nn.Module) -> tuple[list[str], list[str]]:
    return list(nn.Module.state_dict(net)), [name for name, _ in nn.Module.named_parameters(net)]


def test_a_net_lists_what_torch_finds() -> None:
    net = build_net("resnet18", shape=(3, 8, 8), classes=3, options={"width": 4})
    state, parameters = found_by_torch(net)
    for _ in range(2):
        assert list(net.state_dict()) == state
        assert [name for name, _ in net.named_parameters()] == parameters
    assert net.state_dict()._metadata == nn.Module.state_dict(net)._metadata
    assert not any(tensor.requires_grad for tensor in net.state_dict().values())
    assert all(
        isinstance(tensor, nn.Parameter) for name, tensor in net.state_dict(keep_vars=True).items() if name in parameters
    )


def test_a_net_that_is_changed_is_listed_anew() -> None:
    net = build_net("mlp", shape=(4,), classes=2)
    list(net.parameters())
    net.heads["classifier"].bias = nn.Parameter(torch.ones(2))
    assert torch.equal(net.state_dict()["heads.classifier.bias"], torch.ones(2))
    net.heads["second"] = nn.Linear(2, 2)
    assert "heads.second.weight" in dict(net.named_parameters())
    net.heads["classifier"].bias = None
    assert "heads.classifier.bias" not in net.state_dict()
    assert found_by_torch(net)[1] == [name for name, _ in net.named_parameters()]


def test_hooks_on_a_state_dict_are_heard() -> None:
    net = build_net("mlp", shape=(4,), classes=2)
    net.state_dict()

    def without_bias(part: nn.Module, state: dict[str, torch.Tensor], prefix: str, _: object) -> None:
        del state[f"{prefix}bias"]

    net.heads["classifier"].register_state_dict_post_hook(without_bias)
    assert "heads.classifier.bias" not in net.state_dict()


def test_train_and_eval_reach_a_part_in_another_mode() -> None:
    net = build_net("resnet18", shape=(3, 8, 8), classes=3, options={"width": 4}).train()
    norm = next(part for part in net.modules() if isinstance(part, nn.BatchNorm2d))
    norm.eval()
    assert net.train() is net and norm.training
    assert not net.eval().training and not norm.training
