"""Nets cut at each level: both halves together are the net, and what cannot be cut says so in a line."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd import InputError
from fedkd.nets import ZOO, Encoder, build_net, copied, cut_net
from fedkd.nets.outputs import called
from fedkd.nets.zoo import zoo_encoder

SHAPE = (1, 8, 8)
#: A net of each kind -> its options, the samples that it takes, and at how many levels it can be cut.
DEEP: dict[str, tuple[dict[str, Any], int]] = {
    "mlp": ({"hidden": [9, 8, 7, 6]}, 3),
    "cnn": ({"channels": [4, 5, 6], "norm": "batch"}, 2),
    "cnn1d": ({"channels": [4, 5, 6], "norm": "batch"}, 2),
    "resnet18": ({"width": 4}, 4),
    "transformer": ({"depth": 3, "width": 8, "dropout": 0.3}, 2),
}


def samples(name: str) -> tuple[tuple[int, ...], int, Tensor]:
    """A shape, a vocabulary, and four samples."""
    rng = torch.Generator().manual_seed(0)
    if name == "transformer":
        return (12,), 20, torch.randint(0, 20, (4, 12), generator=rng)
    shape = (16, 3) if name == "cnn1d" else (1, 16, 16)
    return shape, 0, torch.randn(4, *shape, generator=rng)


def test_every_net_of_the_zoo_is_here() -> None:
    assert DEEP.keys() == ZOO.keys()


@pytest.mark.parametrize(("name", "level"), [(name, level) for name in DEEP for level in range(1, DEEP[name][1] + 1)])
@pytest.mark.parametrize("training", [True, False])
def test_the_two_halves_are_the_net_bit_for_bit(name: str, level: int, training: bool) -> None:
    (options, cuts), (shape, vocabulary, inputs) = DEEP[name], samples(name)
    net = build_net(name, shape=shape, classes=5, options=options, vocabulary=vocabulary).train(training)
    assert isinstance(net.encoder, Encoder) and net.encoder.cuts == cuts
    whole, halves = copied(net), cut_net(net, level)
    torch.manual_seed(1)
    expected = whole(inputs)
    torch.manual_seed(1)
    held = halves.map_of(inputs)
    before = held.clone()
    assert torch.equal(halves.tail(held), expected)
    assert torch.equal(held, before)
    for name, buffer in net.named_buffers():  # each ran once
        assert torch.equal(buffer, whole.get_buffer(name))
    parts = [id(tensor) for half in (halves.trunk, halves.tail) for tensor in (*half.parameters(), *half.buffers())]
    assert sorted(parts) == sorted(id(tensor) for tensor in (*net.parameters(), *net.buffers()))


@pytest.mark.parametrize("name", DEEP)
def test_without_a_level_all_but_the_last_part_is_the_trunk(name: str) -> None:
    (options, cuts), (shape, vocabulary, inputs) = DEEP[name], samples(name)
    encoder = zoo_encoder(name, options, shape=shape, vocabulary=vocabulary).eval()
    (late, _), (last, _) = encoder.cut(), encoder.cut(cuts)
    assert torch.equal(called(late, inputs), called(last, inputs))


@pytest.mark.parametrize("level", [-1, 3, 99])
def test_a_level_that_a_net_has_not_is_named(level: int) -> None:
    with pytest.raises(InputError, match=f"^CNN can be cut at levels 1 to 2, and not at level {level}$"):
        zoo_encoder("cnn", DEEP["cnn"][0]).cut(level)
    with pytest.raises(InputError, match=r"^CNN can be cut at level 1 only, and not at level 2$"):
        zoo_encoder("cnn", {}).cut(2)


class Whole(Encoder):
    """A user's encoder that cannot be cut, and has names of its own for what it is made of."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Flatten()])
        self.levels = 3
        self.out_features = math.prod(shape)

    def forward(self, images: Tensor) -> Tensor:
        flat: Tensor = self.parts[0](images)
        return flat


class InThree(Encoder):
    """A user's encoder that says what it is made of."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh())
        self.out_features = 6

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features

    def in_parts(self) -> tuple[nn.Module, ...]:
        return self.layers[:3], self.layers[3], self.layers[4]


class InTwo(InThree):
    """One that overrides ``cut`` alone."""

    def in_parts(self) -> tuple[nn.Module, ...]:
        return Encoder.in_parts(self)

    def cut(self, level: int = 0) -> tuple[nn.Module, nn.Module]:
        return self.layers[:3], self.layers[3:]


def logits_only(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def test_a_users_net_is_cut_where_it_says_and_else_says_what_it_lacks() -> None:
    images = torch.randn(3, *SHAPE)
    net = build_net(InThree, shape=SHAPE, classes=4)
    for level in (1, 2):
        halves = cut_net(net, level)
        assert torch.equal(halves.tail(halves.map_of(images)), net(images))
    early = build_net(InTwo, shape=SHAPE, classes=4)
    halves = cut_net(early, 1)
    assert torch.equal(halves.tail(halves.map_of(images)), early(images))
    with pytest.raises(InputError, match="InTwo can be cut at level 1 only, and not at level 2"):
        cut_net(early, 2)
    for function, said in (
        (Whole, "Whole cannot be cut into a trunk and a branch: override Encoder.in_parts"),
        (logits_only, "logits_only' gives logits only: subclass fedkd.nets.Encoder and override in_parts to cut it"),
    ):
        with pytest.raises(InputError, match=said) as error:
            cut_net(build_net(function, shape=SHAPE, classes=4), 1)
        assert "\n" not in str(error.value)
