"""What a function may give as a net, and what is said of what it may not: built, read, named, frozen, lazy, wrapped, tied."""

from __future__ import annotations

import functools
import math
import threading
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError, Notice
from fedkd.base.randomness import seeded
from fedkd.nets import Encoder, Net, build_net, copied, load, logits_of, unsaved_buffers

SHAPE = (1, 4, 4)
Auxiliary = namedtuple("Auxiliary", ["logits", "auxiliary"])


def layers(shape: tuple[int, int, int], classes: int, width: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), width), nn.ReLU(), nn.Linear(width, classes))


def net_of(function: Callable[..., Any], *, classes: int = 3, **options: Any) -> Net:
    with seeded(0):
        return build_net(function, shape=SHAPE, classes=classes, options=options)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


class Returning(nn.Module):
    """Gives what ``answer`` makes of logits."""

    def __init__(self, inner: nn.Module, answer: Callable[[Tensor], object] = lambda logits: logits) -> None:
        super().__init__()
        self.inner, self.answer = inner, answer

    def forward(self, images: Tensor) -> object:
        return self.answer(self.inner(images))


class Object:
    def __init__(self, logits: Tensor) -> None:
        self.loss, self.logits = None, logits


# Outputs


@pytest.mark.parametrize(
    "answer",
    [
        Object,
        lambda logits: {"loss": None, "logits": logits},
        lambda logits: (logits, logits.sum()),
        lambda logits: [logits],
        lambda logits: Auxiliary(logits, None),
    ],
    ids=["object", "dict", "tuple", "list", "named tuple"],
)
def test_logits_are_found_in_what_a_net_returns(answer: Callable[[Tensor], object]) -> None:
    plain = net_of(layers)
    wrapped = net_of(lambda shape, classes: Returning(layers(shape, classes), answer))
    assert torch.equal(wrapped(images()), plain(images()))
    assert torch.equal(wrapped.head("classifier", wrapped.encoded(images())), plain(images()))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            lambda logits: {"out": logits, "aux": 1},
            r"returns a dict of out, aux, in which no logits are found: return a tensor",
        ),
        (lambda logits: None, "returns a NoneType, in which no logits"),
        (lambda logits: (), "returns a tuple, in which no logits"),
        (lambda logits: (logits.sum(), logits), r"gives \(\) for 2 samples: it must give logits \(2, 3\)"),
        (lambda logits: logits[:, 1:], r"gives \(2, 2\) for 2 samples"),
        (lambda logits: logits[:, :, None], r"gives \(2, 3, 1\)"),
        (lambda logits: logits[0], r"gives \(3,\)"),
        (lambda logits: logits[:1], r"gives \(1, 3\)"),
        (lambda logits: logits.argmax(1), r"gives int64 of \(2,\)"),
    ],
)
def test_what_is_no_logits_is_one_line(answer: Callable[[Tensor], object], said: str) -> None:
    net = net_of(lambda shape, classes: Returning(layers(shape, classes), answer))
    with pytest.raises(InputError, match=said) as error:
        net(images())
    assert len(str(error.value).splitlines()) == 1


def test_logits_may_lie_one_level_deep_only() -> None:
    with pytest.raises(InputError, match="returns a tuple"):
        logits_of(((torch.zeros(1, 1),),), "mine")


def test_features_have_the_width_that_was_promised() -> None:
    class Wide(Encoder):
        out_features = 7

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    net = net_of(lambda shape, classes: Wide())
    for ask in (net, net.features, net.outputs):
        with pytest.raises(InputError, match=r"gives features that are \(2, 16\), not \(2, 7\)"):
            ask(images())


# Functions


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda: layers(SHAPE, 3), r"takes \(\), and it is given \(shape, classes\) by place"),
        (lambda shape: layers(shape, 3), r"takes \(shape\), and it is given \(shape, classes\)"),
        (lambda *, shape, classes: layers(shape, classes), r"takes \(\*, shape, classes\), and it is given"),
        (lambda classes, shape: layers(shape, classes), "in this order: swap its parameters"),
        (lambda shape, classes, depth: layers(shape, classes), "give depth a default, or a value in its net_options"),
        (lambda shape, classes, *, depth: layers(shape, classes), "give depth a default, or a value in its net_options"),
        (lambda shape, classes: None, "returned None: it must return a torch.nn.Module"),
        (lambda shape, classes: nn.Flatten, "returned the class Flatten, and not an instance"),
        ("cn", "net 'cn' is unknown: did you mean 'cnn'"),
        (3, "is a int: not a function"),
    ],
)
def test_a_function_that_makes_no_net_of_shape_and_classes_is_one_line(function: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        net_of(function)
    assert len(str(error.value).splitlines()) == 1


class Maker:
    width = 6

    def make(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return layers(shape, classes, self.width)

    def __call__(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return self.make(shape, classes)


@pytest.mark.parametrize(
    "function", [functools.partial(layers, width=6), Maker().make, Maker(), lambda *given: layers(*given, 6)]
)
def test_whatever_can_be_called_so_is_a_function(function: Callable[..., nn.Module]) -> None:
    assert net_of(function).state_dict()["encoder.1.weight"].shape == (6, 16)
    assert ":" in net_of(function).architecture


# Wrapped, lazy, tied, normalised


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda net: torch.compile(net, backend="eager"),
        lambda net: nn.DataParallel(torch.compile(net, backend="eager")),  # type: ignore[arg-type]
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_wrappers_are_taken_off_wherever_they_are(wrap: Callable[[nn.Module], Any], inside: bool) -> None:
    def plain(shape: tuple[int, int, int], classes: int, wrapped: bool = False) -> nn.Module:
        net = layers(shape, classes)
        return Returning(wrap(net) if wrapped else net) if inside else wrap(net) if wrapped else net

    with pytest.warns(Notice, match="comes compiled or wrapped"):
        net = net_of(plain, wrapped=True)
    assert list(net.state_dict()) == list(net_of(plain).state_dict())
    assert torch.equal(net(images()), net_of(plain)(images()))


def test_lazy_layers_get_their_shapes_and_seeded_weights_and_keep_their_modes() -> None:
    def lazy(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d().eval(), nn.Flatten(), nn.LazyLinear(classes))

    net, again = net_of(lazy), net_of(lazy)
    assert [part.training for part in net.encoder] == [True, False, True, True]  # type: ignore[union-attr]
    assert net(images()).shape == (2, 3)
    assert all(
        torch.equal(one, other) for one, other in zip(net.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert int(net.state_dict()["encoder.1.num_batches_tracked"]) == 0


def test_a_lazy_layer_that_no_batch_reaches_is_named() -> None:
    def lazy(shape: tuple[int, int, int], classes: int) -> nn.Module:
        net = layers(shape, classes)
        net.add_module("beside", nn.Identity())
        net.beside.unused = nn.LazyLinear(3)
        return net

    with pytest.raises(InputError, match=r"beside\.unused\.weight has no shape after a batch in eval mode"):
        net_of(lazy)


@pytest.mark.parametrize("normalise", [nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_normalised_weights_are_loaded_and_copied_after_a_pass(normalise: Callable[[nn.Module], nn.Module]) -> None:
    def made(shape: tuple[int, int, int], classes: int) -> nn.Module:
        net = layers(shape, classes)
        normalise(net[1])
        return net

    net, other = net_of(made), net_of(made)
    net(images()).sum().backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(parameter.grad)  # type: ignore[arg-type]
    copy = copied(net)
    load(other, net.state_dict())
    expected = net.eval()(images())
    assert torch.equal(copy.eval()(images()), expected) and torch.equal(other.eval()(images()), expected)


def test_tied_weights_stay_tied() -> None:
    def tied(shape: tuple[int, int, int], classes: int) -> nn.Module:
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, classes))
        net[2].weight = net[1].weight
        return net

    net = net_of(tied)
    load(net, {name: torch.full_like(tensor, 0.5) for name, tensor in net.state_dict().items()})
    assert net.encoder[1].weight is net.encoder[2].weight  # type: ignore[index]
    assert len(list(net.parameters())) == 5


# What a state dict holds


class Extra(nn.Module):
    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.net = layers(shape, classes)

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}

    def set_extra_state(self, state: object) -> None: ...

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits


class WithoutItsFirst(nn.Module):
    """Its state dict leaves the first layer out, which is frozen or not."""

    def __init__(self, shape: tuple[int, int, int], classes: int, frozen: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16).requires_grad_(not frozen)
        self.last = nn.Linear(16, classes)

    def state_dict(self, *arguments: Any, **named: Any) -> Any:
        whole = super().state_dict(*arguments, **named)
        for name in [name for name in whole if ".first." in name or name.startswith("first.")]:
            del whole[name]
        return whole

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.first(images.flatten(1)))
        return logits


def test_a_state_that_cannot_travel_is_named() -> None:
    with pytest.raises(InputError, match=r"_extra_state in its state dict is none of its parameters and buffers"):
        net_of(Extra)
    with pytest.raises(InputError, match=r"its state dict leaves first\.weight out, which is trained: freeze it"):
        net_of(WithoutItsFirst, frozen=False)
    net_of(WithoutItsFirst)


def test_buffers_that_are_not_saved_are_found() -> None:
    def made(shape: tuple[int, int, int], classes: int) -> nn.Module:
        net = layers(shape, classes)
        net.register_buffer("kept", torch.zeros(2))
        net[1].register_buffer("passing", torch.ones(2), persistent=False)
        return net

    assert list(unsaved_buffers(net_of(made))) == ["encoder.1.passing"]


# Frozen


def half_frozen(shape: tuple[int, int, int], classes: int) -> nn.Module:
    net = layers(shape, classes)
    net[1].requires_grad_(False)
    return net


def test_thawing_a_net_passes_over_what_its_maker_froze() -> None:
    net = net_of(half_frozen)
    trained = {"encoder.3.weight", "encoder.3.bias"}
    for _ in range(2):
        assert not any(parameter.requires_grad for parameter in net.requires_grad_(False).parameters())
        assert {name for name, parameter in net.requires_grad_(True).named_parameters() if parameter.requires_grad} == trained
    copy = copied(net.requires_grad_(False)).requires_grad_(True)
    assert {name for name, parameter in copy.named_parameters() if parameter.requires_grad} == trained


def test_images_lie_as_the_nets_maker_expects() -> None:
    seen: list[Tensor] = []

    def watching(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(Returning(nn.Identity(), lambda x: seen.append(x) or x), nn.Flatten(), nn.Linear(48, classes))  # type: ignore[func-returns-value]

    channels_last = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    build_net(watching, shape=(3, 4, 4), classes=3)(channels_last)
    assert seen[0].is_contiguous()
    cnn = build_net("cnn", shape=(3, 4, 4), classes=3)
    assert cnn.laid_out(torch.zeros(2, 3, 4, 4)).is_contiguous(memory_format=torch.channels_last)
    assert cnn.state_dict()["encoder.convolutions.1.weight"].is_contiguous(memory_format=torch.channels_last)


def test_what_cannot_be_copied_can_still_be_built() -> None:
    def made(shape: tuple[int, int, int], classes: int) -> nn.Module:
        net = layers(shape, classes)
        net.lock = threading.Lock()  # type: ignore[assignment]
        return net

    assert net_of(made)(images()).shape == (2, 3)
