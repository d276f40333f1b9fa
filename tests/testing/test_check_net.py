"""Each check of a net finds the net that breaks its promise, and passes those that break none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd.nets import Encoder
from fedkd.testing import check_net, net_checks
from fedkd.testing.users_net import Decided

SHAPE = (1, 8, 8)


def plain(shape: tuple[int, int, int], classes: int, *, width: int = 12) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), width), nn.ReLU(), nn.Linear(width, classes))


class Made(nn.Module):
    """Gives what ``answer`` makes of a plain net's logits, and of itself."""

    def __init__(self, shape: tuple[int, int, int], classes: int, answer: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.answer, self.calls = plain(shape, classes), answer, 0

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self, self.inner(images))


def made(answer: Callable[[Any, Tensor], Tensor]) -> Callable[..., nn.Module]:
    def net(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return Made(shape, classes, answer)

    return net


def counting(net: Any, logits: Tensor) -> Tensor:
    net.calls += net.training
    return logits * (1 + net.calls)


class WritesIntoItsInput(nn.Module):
    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.inner = plain(shape, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images.sub_(1))  # type: ignore[no-any-return]


def own_generator(shape: tuple[int, int, int], classes: int) -> nn.Module:
    net, rng = plain(shape, classes), torch.Generator()
    rng.seed()
    nn.init.normal_(net[1].weight, generator=rng)
    return net


ONE = plain(SHAPE, 10)


def the_same_net(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return ONE


class Idle(nn.Module):
    """Has a layer that nothing passes through."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.inner, self.idle = plain(shape, classes), nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images)  # type: ignore[no-any-return]


class OverwritesItsMap(Encoder):
    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.convolution, self.out_features = nn.Conv2d(shape[0], 4, 3, padding=1), 4

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(images)[1]

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        held = self.convolution(images)
        return (held,), held.relu_().mean((2, 3))


class CutTwice(Encoder):
    """Both halves have its first layer."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.flat, self.first, self.second = nn.Flatten(), nn.Linear(math.prod(shape), 8), nn.Linear(8, 8)
        self.out_features = 8

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(self.flat(images)))  # type: ignore[no-any-return]

    def cut(self) -> tuple[nn.Module, nn.Module]:
        return self.flat, nn.Sequential(self.first, self.first, self.second)


CASES = [
    ("gives_finite_logits_of_any_batch", made(lambda net, logits: logits / 0), "finite logits before any training"),
    ("gives_finite_logits_of_any_batch", made(lambda net, logits: logits[:, 1:]), "InputError"),
    ("gives_logits_and_no_probabilities", made(lambda net, logits: logits.softmax(1)), "leave the softmax away"),
    (
        "judges_each_sample_alone_in_eval_mode",
        made(lambda net, logits: nn.functional.dropout(logits)),
        "the same logits twice in eval mode",
    ),
    ("judges_each_sample_alone_in_eval_mode", made(lambda net, logits: logits - logits.mean(0)), "whatever its batch"),
    ("leaves_its_samples_as_they_were", WritesIntoItsInput, "in-place operations on the input"),
    ("weights_are_drawn_from_the_seed", own_generator, "equal weights from equal seeds"),
    ("weights_are_drawn_from_the_seed", the_same_net, "other weights from another seed"),
    ("its_state_dict_is_all_of_it", made(counting), "register_buffer"),
    ("its_state_dict_is_all_of_it", Decided, "expected all that a pass changes in the state dict, got encoder.centred.mean"),
    ("every_weight_learns", Idle, "a gradient of encoder.idle.weight"),
    ("every_weight_learns", made(lambda net, logits: logits.detach()), "RuntimeError"),
    ("maps_and_features_are_those_of_a_plain_pass", OverwritesItsMap, "maps from before their ReLU"),
    ("trunk_then_tail_is_the_whole_net", CutTwice, "InputError|RuntimeError|bit for bit"),
]


@pytest.mark.slow
@pytest.mark.parametrize("net", [plain, "cnn"], ids=["plain", "cnn"])
def test_right_nets_pass(net: Any) -> None:
    check_net(net, shape=SHAPE, classes=7)


@pytest.mark.parametrize(("name", "net", "said"), CASES)
def test_a_wrong_net_is_found_in_one_line(name: str, net: Callable[..., nn.Module], said: str) -> None:
    checks = {check.__name__: check for check in net_checks(net, shape=SHAPE)}
    with pytest.raises(AssertionError, match=said if "|" in said else re.escape(said)) as error:
        checks[name]()
    assert "\n" not in str(error.value)


def test_every_check_has_a_net_that_it_finds() -> None:
    assert {check.__name__ for check in net_checks("mlp")} == {name for name, _, _ in CASES}


def test_options_are_the_nets_own() -> None:
    check_net(plain, width=5)
    with pytest.raises(AssertionError, match="has no option 'widht': did you mean 'width'"):
        check_net(plain, widht=5)
