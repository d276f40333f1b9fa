"""Features of a user's plain module: found at its last linear layer, or named; nothing of the module is changed by it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.nets import Net, build_net, copied
from fedkd.testing import check_net

SHAPE = (1, 4, 4)


class Plain(nn.Module):
    """A body, dropout, a last layer: as torchvision and timm have them."""

    def __init__(self, shape: tuple[int, int, int], classes: int, *, width: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(shape[0], width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.pool, self.drop = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5)
        self.last = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.drop(self.pool(self.body(images)).flatten(1)))
        return logits


class Text(nn.Module):
    """As transformers have it: tensors by name, an object with logits."""

    def __init__(self, shape: Mapping[str, tuple[int, ...]], classes: int, vocabulary: int) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(vocabulary, 6), nn.Linear(6, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {"logits": self.last((self.words(input_ids) * attention_mask.unsqueeze(2)).mean(1))}


def net_of(function: Any, classes: int = 3, heads: tuple[str, ...] = ("classifier",), **options: Any) -> Net:
    torch.manual_seed(0)
    return build_net(function, shape=SHAPE, classes=classes, heads=heads, options=options)


def images() -> Tensor:
    return torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_features_are_what_the_last_linear_layer_reads() -> None:
    net = net_of(Plain).eval()
    module = net.encoder
    features, outputs = net.features(images()), net.outputs(images())
    assert net.feature_width == 5
    assert torch.equal(features, module.pool(module.body(images())).flatten(1))
    assert torch.equal(outputs.features, features) and torch.equal(outputs.logits, net(images()))
    assert torch.equal(net.head("classifier", features), net(images()))
    outputs.features.sum().backward()
    assert module.body[0].weight.grad is not None and module.last.weight.grad is None


@pytest.mark.parametrize("place", ["pool", "drop", "body"])
def test_features_are_what_a_named_part_gives(place: str) -> None:
    net = net_of(Plain, features=place).eval()
    features = net.features(images())
    assert features.shape == (6, net.feature_width) == (6, 5 if place != "body" else 5 * 2 * 2)
    if place == "body":
        with pytest.raises(InputError, match="last layer reads are not the features that 'body' gives, so that no logits"):
            net.head("classifier", features)
    else:
        assert torch.equal(net.head("classifier", features), net(images()))


def test_the_module_stays_as_it_was() -> None:
    net, plain = net_of(Plain), net_of(Plain)
    modes = [part.training for part in net.modules()]
    assert net.has_features
    assert [part.training for part in net.modules()] == modes
    net.features(images())
    assert list(net.state_dict()) == list(plain.state_dict())
    assert len(list(net.parameters())) == len(list(plain.parameters()))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_a_copy_reads_its_own_features() -> None:
    net = net_of(Plain).eval()
    net.features(images())
    for copy in (copied(net), deepcopy(net)):
        with torch.no_grad():
            copy.encoder.body[0].weight.zero_()
        assert not torch.equal(copy.features(images()), net.features(images()))
        assert torch.equal(copy.head("classifier", copy.features(images())), copy(images()))


def test_heads_stand_on_the_features() -> None:
    net = net_of(Plain, heads=("classifier", "projection", "prediction"))
    embedding = net.head("prediction", net.head("projection", net.features(images())))
    assert embedding.shape == (6, 256)
    assert list(net.state_dict())[: len(net_of(Plain).state_dict())] == list(net_of(Plain).state_dict())


def test_dict_samples_have_features_too() -> None:
    shape = {"input_ids": (7,), "attention_mask": (7,)}
    net = build_net(Text, shape=shape, classes=3, vocabulary=9).eval()
    samples = {"input_ids": torch.ones(2, 7, dtype=torch.int64), "attention_mask": torch.ones(2, 7, dtype=torch.int64)}
    assert net.features(samples).shape == (2, 6)
    check_net(Text, shape=shape, vocabulary=9)


def clipped() -> nn.Module:
    """A linear layer whose outputs are all below zero, and what clips them: logits that no layer makes."""
    linear = nn.Linear(5, 3)
    nn.init.constant_(linear.bias, -100.0)
    return nn.Sequential(linear, nn.ReLU())


@pytest.mark.parametrize(
    "last",
    [nn.LogSoftmax(1), nn.Conv2d(5, 3, 1), clipped()],
    ids=["log softmax", "convolution", "relu"],
)
def test_where_no_linear_layer_makes_the_logits_there_are_none_but_named_ones(last: nn.Module) -> None:
    def made(shape: tuple[int, int, int], classes: int) -> nn.Module:
        body = nn.Sequential(nn.Conv2d(1, 5, 3), nn.AdaptiveAvgPool2d(1))
        before = nn.Sequential(nn.Flatten(), nn.Linear(5, 3)) if isinstance(last, nn.LogSoftmax) else nn.Identity()
        flat = nn.Identity() if isinstance(last, nn.Conv2d) else nn.Flatten()
        return nn.Sequential(body, before, flat, deepcopy(last), nn.Flatten())

    assert not net_of(made).has_features
    assert net_of(made, features="0").features(images()).shape == (6, 5)


def test_a_part_that_is_not_there_or_gives_no_features_is_one_line() -> None:
    with pytest.raises(InputError, match=r"its features are said to be those of 'pol': did you mean 'pool'"):
        net_of(Plain, features="pol")

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    def made(shape: tuple[int, int, int], classes: int) -> nn.Module:
        net = Plain(shape, classes)
        net.pool = nn.Sequential(Pair(), First(), net.pool)  # type: ignore[assignment]
        return net

    class First(nn.Module):
        def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
            return pair[0]

    with pytest.raises(InputError, match=r"'pool\.0' gives a tuple, and no features \(B, \.\.\.\): name another part"):
        net_of(made, features="pool.0").features(images())


@pytest.mark.parametrize("flat", [False, True])
def test_one_logit_of_two_classes_becomes_two(flat: bool) -> None:
    def made(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 1), *[nn.Flatten(0)] * flat)

    net = net_of(made, classes=2)
    z = net.encoder(images()).reshape(-1)
    assert torch.equal(net(images()), torch.stack([torch.zeros(6), z], dim=1))
    torch.testing.assert_close(net(images()).softmax(1)[:, 1], z.sigmoid())
    if not flat:
        assert torch.equal(net.head("classifier", net.features(images())), net(images()))


def test_features_in_the_place_of_logits_are_one_line() -> None:
    net = net_of(lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(16, 12)))
    with pytest.raises(
        InputError, match=r"gives \(6, 12\) for 6 samples: .* if these are features, end it with nn\.Linear\(12"
    ):
        net(images())


def test_a_module_is_copied_whenever_a_net_is_made() -> None:
    module = Plain(SHAPE, 3)
    one, other = (build_net(module, shape=SHAPE, classes=3) for _ in range(2))
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert not {id(p) for p in one.parameters()} & {id(p) for p in (*other.parameters(), *module.parameters())}
