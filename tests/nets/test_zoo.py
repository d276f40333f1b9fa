"""Every architecture of the zoo: sizes by hand, shapes, options, and images of any size."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedkd.base.errors import InputError
from fedkd.base.inputs import Shape
from fedkd.nets import ZOO, Net, build_net, check_net
from fedkd.nets.resnet18 import Projection
from fedkd.testing.check import checks_of
from fedkd.testing.net_kind import Kind
from fedkd.testing.nets import CHECKS

SMALL = {"resnet18": {"width": 4}, "transformer": {"width": 16}}
MASKED = {"input_ids": (12,), "attention_mask": (12,)}
#: Shapes of samples, and how many token ids there are.
SAMPLES: list[tuple[Shape, int]] = [
    ((1, 8, 8), 0),
    ((1, 28, 28), 0),
    ((3, 32, 32), 0),
    ((3, 20, 30), 0),
    ((13,), 0),
    ((24, 3), 0),
    ((12,), 9),
    (MASKED, 9),
]
TAKEN = [(name, shape, words) for name in sorted(ZOO) for shape, words in SAMPLES if ZOO[name].takes(shape, words)]
OF_IMAGES = sorted(name for name in ZOO if ZOO[name].takes((3, 16, 16)))


@pytest.mark.parametrize(("name", "shape", "vocabulary"), TAKEN)
@pytest.mark.parametrize("check", CHECKS)
def test_keeps_what_fedkd_testing_checks(name: str, shape: Shape, vocabulary: int, check: Callable[[Kind], None]) -> None:
    for bound in checks_of(name, (check,), Kind(name, shape, 7, SMALL.get(name, {}), vocabulary)):
        bound()


def test_every_kind_of_sample_has_a_net() -> None:
    assert {str(shape) for _, shape, _ in TAKEN} == {str(shape) for shape, _ in SAMPLES}


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("name", OF_IMAGES)
def test_logits_are_the_classifier_of_the_features_in_either_memory_format(name: str) -> None:
    net = build_net(name, shape=(3, 16, 16), classes=5, options=SMALL.get(name, {})).eval()
    images = torch.randn(4, 3, 16, 16)
    logits = net.head("classifier", net.features(images))
    torch.testing.assert_close(net(images), logits)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(images.to(memory_format=torch.channels_last)), logits)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_maps_come_before_their_relu_as_many_as_are_known(name: str) -> None:
    net = build_net(name, shape=(3, 16, 16), classes=5, options=SMALL.get(name, {})).eval()
    maps = net.outputs(torch.randn(4, 3, 16, 16)).maps
    assert len(maps) == {"mlp": 0, "cnn": 2, "resnet18": 5}.get(name, len(maps))


@pytest.mark.parametrize("name", OF_IMAGES)
def test_keeps_channels_last_through_the_convolutions(name: str) -> None:
    net = build_net(name, shape=(3, 16, 16), classes=5, options=SMALL.get(name, {}))
    net.to(memory_format=torch.channels_last)
    outputs: list[torch.Tensor] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: outputs.extend([inputs[0], output]))
    net(torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last))
    assert all(output.is_contiguous(memory_format=torch.channels_last) for output in outputs)


@pytest.mark.parametrize(("name", "shape", "vocabulary"), [held for held in TAKEN if held[0] in ("cnn1d", "transformer")])
def test_maps_of_signals_and_text_are_as_long_as_what_is_left_of_them(name: str, shape: Shape, vocabulary: int) -> None:
    kind = Kind(name, shape, 5, SMALL.get(name, {}), vocabulary)
    maps = kind.net().eval().outputs(kind.inputs()).maps
    length = 24 if shape == (24, 3) else 12
    lengths = [length // 2, length // 4] if name == "cnn1d" else [length, length]
    assert [tuple(held.shape[2:]) for held in maps] == [(length, 1) for length in lengths]


def test_mlp_counts() -> None:
    net = build_net("mlp", shape=(1, 28, 28), classes=10)
    assert parameters(net) == (784 * 200 + 200) + (200 * 200 + 200) + (200 * 10 + 10)  # 199,210, FedAvg's 2NN
    assert parameters(build_net("mlp", shape=(1, 8, 8), classes=10, options={"hidden": []})) == 64 * 10 + 10


def test_cnn_counts() -> None:
    assert parameters(build_net("cnn", shape=(1, 28, 28), classes=10)) == 52_138
    options = {"channels": [32, 64], "kernel": 5, "padding": 0, "hidden": 512}
    assert parameters(build_net("cnn", shape=(1, 28, 28), classes=10, options=options)) == 582_026


def test_cnn_is_convolution_relu_pool_by_hand() -> None:
    net = build_net("cnn", shape=(1, 4, 4), classes=1, options={"channels": [1], "kernel": 1, "hidden": 1})
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    image = torch.arange(16.0).view(1, 1, 4, 4) - 8
    # plus bias 1, pooled: -2, 0, 6, 8; ReLU 0, 0, 6, 8; hidden 14 + 1; classifier 15 + 1
    assert net(image).item() == 16


def test_cnn1d_counts() -> None:
    options = {"channels": [4, 8], "kernel": 3, "hidden": 5, "embedding": 6}
    convolutions = 8 * 4 * 3 + 8  # the second one
    assert parameters(build_net("cnn1d", shape=(20, 2), classes=3, options=options)) == (
        (4 * 2 * 3 + 4) + convolutions + (8 * 5 * 5 + 5) + (5 * 3 + 3)  # 20 steps halved twice leave 5
    )
    text = build_net("cnn1d", shape=(20,), classes=3, options=options, vocabulary=11)
    assert parameters(text) == 11 * 6 + (4 * 6 * 3 + 4) + convolutions + (8 * 5 * 5 + 5) + (5 * 3 + 3)


def test_transformer_counts() -> None:
    net = build_net("transformer", shape=(7,), classes=3, vocabulary=11, options={"width": 8, "depth": 1, "heads": 2})
    block = (3 * 8 * 8 + 3 * 8) + (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8) + 2 * 2 * 8
    assert parameters(net) == 11 * 8 + (7 + 1) * 8 + block + 2 * 8 + (8 * 3 + 3)


@pytest.mark.parametrize("causal", [False, True])
def test_transformer_reads_no_padding_on_either_side(causal: bool) -> None:
    net = build_net("transformer", shape=(6,), classes=3, vocabulary=9, options={"width": 8, "causal": causal}).eval()
    nn.init.zeros_(net.encoder.stem.positions)  # where the words stand shall not tell
    words = torch.tensor([[3, 5, 0, 0, 0, 0], [0, 0, 0, 0, 3, 5], [0, 3, 0, 5, 0, 0]])
    nn.init.normal_(net.encoder.stem.positions[-1])
    logits = net(words)
    torch.testing.assert_close(logits, logits[:1].expand(3, -1))
    masked = {"input_ids": torch.tensor([[3, 5, 7, 7, 7, 7]]), "attention_mask": torch.tensor([[1, 1, 0, 0, 0, 0]])}
    torch.testing.assert_close(net(masked), logits[:1])
    with torch.no_grad():  # where torch has faster ways
        torch.testing.assert_close(net(words), logits)
    net.train()(words).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.encoder.parameters())


def test_a_causal_transformer_sees_nothing_of_later_tokens() -> None:
    options = {"width": 8, "causal": True}
    net = build_net("transformer", shape=(4,), classes=3, vocabulary=9, options=options).eval()
    one, other = (net.outputs(torch.tensor([[3, 5, 2, last]])) for last in (7, 8))
    for before, after in zip(one.maps, other.maps, strict=True):
        torch.testing.assert_close(before[:, :, :3], after[:, :, :3])
        assert not torch.equal(before[:, :, 3], after[:, :, 3])
    assert not torch.equal(one.logits, other.logits)


@pytest.mark.slow
def test_resnet18_of_fedx_has_its_published_size() -> None:
    net = build_net("resnet18", shape=(3, 32, 32), classes=10, heads=("projection", "prediction"))
    state = net.state_dict()
    assert parameters(net) == 11_497_536
    assert parameters(net.encoder) == 11_168_832
    assert len(state) == 128
    assert sum(tensor.numel() * tensor.element_size() for tensor in state.values()) == 46_028_704


def test_resnet18_starts_kaiming_normal_with_identity_norms() -> None:
    net = build_net("resnet18", shape=(3, 32, 32), classes=10, options={"width": 32})
    for module in net.encoder.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.bias is None
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()


def test_resnet18_halves_three_times_and_never_in_the_stem() -> None:
    net = build_net("resnet18", shape=(3, 32, 32), classes=10, options={"width": 4})
    shapes: list[tuple[int, ...]] = []
    for block in net.encoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    net(torch.randn(2, 3, 32, 32))
    assert shapes == [(4, 32, 32)] * 2 + [(8, 16, 16)] * 2 + [(16, 8, 8)] * 2 + [(32, 4, 4)] * 2


@pytest.mark.parametrize("width", [3, 4, 16, 20])
def test_resnet18_with_group_norm_has_no_buffers_and_knows_no_batch(width: int) -> None:
    net = build_net("resnet18", shape=(1, 8, 8), classes=3, options={"width": width, "norm": "group"}).train()
    images = torch.randn(4, 1, 8, 8)
    assert not list(net.buffers())
    torch.testing.assert_close(net(images)[:1], net(images[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_resnet18_trains_in_bfloat16(norm: str) -> None:
    net = build_net("resnet18", shape=(3, 16, 16), classes=3, options={"width": 16, "norm": norm})
    net.to(memory_format=torch.channels_last)
    images = torch.randn(8, 3, 16, 16).to(memory_format=torch.channels_last)
    exact = net(images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(images)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), exact, rtol=0.1, atol=0.1)
    logits.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "net 'resnet' is unknown: did you mean 'resnet18'?"),
        ("cnn", {"chanels": [8]}, "net 'cnn' has no option 'chanels': did you mean 'channels'?"),
        ("cnn", {"depth": 8}, "net 'cnn' has no option 'depth': known are channels, hidden, kernel, norm, padding"),
        ("cnn", {"channels": 8}, "net 'cnn': channels must be a list of integers, not 8"),
        ("cnn", {"channels": [8, 0]}, "each of channels must be an integer of at least 1, not 0"),
        ("cnn", {"kernel": "3"}, "kernel must be an integer of at least 1, not '3'"),
        ("cnn", {"padding": "valid"}, "padding"),
        ("cnn", {"hidden": True}, "hidden must be an integer"),
        ("cnn", {"norm": "bach"}, "net 'cnn': norm 'bach' is unknown: did you mean 'batch'?"),
        ("cnn", {"channels": [8] * 4}, "images of 8x8 are too small for 4 convolutions"),
        ("cnn", {"kernel": 5, "padding": 0}, "images of 8x8 are too small"),
        ("mlp", {"hidden": [64, -1]}, "each of hidden must be an integer of at least 1, not -1"),
        ("resnet18", {"width": 16.0}, "width must be an integer of at least 1, not 16.0"),
        ("resnet18", {"norm": "grup"}, "norm 'grup' is unknown: did you mean 'group'?"),
        ("resnet18", {"norm": ["batch"]}, "norm"),
        ("cnn1d", {"channels": [8] * 4}, "samples of length 8 are too short for 4 convolutions, each halving the length"),
        ("cnn1d", {"embedding": 0}, "embedding must be an integer of at least 1, not 0"),
        ("transformer", {"heads": 5}, "net 'transformer': 5 heads cannot share a width of 64: make it a multiple of heads"),
        ("transformer", {"causal": "yes"}, "causal must be true or false, not 'yes'"),
        ("transformer", {"dropout": 1}, "dropout must be a number from 0 to below 1, not 1"),
    ],
)
def test_bad_input_is_one_line_that_names_the_cure(name: str, options: dict[str, object], message: str) -> None:
    shape: Shape = {"cnn1d": (8, 3), "transformer": (8,)}.get(name, (1, 8, 8))
    vocabulary = 9 if name == "transformer" else 0
    for refuse in (
        lambda: check_net(name, options, shape=shape, vocabulary=vocabulary),
        lambda: build_net(name, shape=shape, classes=10, options=options, vocabulary=vocabulary),
    ):
        with pytest.raises(InputError) as error:
            refuse()
        assert message in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "shape", "vocabulary", "message"),
    [
        ("cnn", (12,), 9, "takes images (C, H, W), and these samples are tokens (12,): take cnn1d or transformer"),
        ("mlp", (12,), 9, "and these samples are tokens (12,): take cnn1d or transformer, or a net of your own"),
        ("mlp", MASKED, 9, "and these samples are tokens input_ids (12,), attention_mask (12,): take cnn1d or transformer"),
        ("transformer", (13,), 0, "takes tokens (L,), and these samples are (13,): take mlp, or a net of your own"),
        ("cnn1d", (1, 8, 8), 0, "takes signals (L, F) or tokens (L,), and these samples are (1, 8, 8)"),
        ("transformer", {"left": (3,), "right": (2,)}, 0, "these samples are left (3,), right (2,): take a net of your own"),
    ],
)
def test_samples_of_another_kind_are_refused(name: str, shape: Shape, vocabulary: int, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        check_net(name, {}, shape=shape, vocabulary=vocabulary)


def test_check_net_passes_the_whole_zoo_and_draws_nothing() -> None:
    state = torch.get_rng_state()
    for name in ZOO:
        check_net(name, {})
    assert torch.equal(torch.get_rng_state(), state)


def test_heads_are_asked_for_by_name() -> None:
    net = build_net("mlp", shape=(1, 8, 8), classes=10, heads=("projection", "prediction"))
    z = net.head("projection", net.features(torch.randn(3, 1, 8, 8)))
    assert z.shape == net.head("prediction", z).shape == (3, 256)
    assert isinstance(net, Net)
    with pytest.raises(ValueError, match=r"'mlp' was built without head 'classifier'; it has .*projection"):
        net(torch.randn(3, 1, 8, 8))
    with pytest.raises(InputError, match="head 'projecton' is unknown: did you mean 'projection'"):
        build_net("mlp", shape=(1, 8, 8), classes=10, heads=("projecton",))


@pytest.mark.parametrize("channels", [4, 8])
@pytest.mark.parametrize("size", [(6, 6), (5, 7)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_projection_is_a_strided_1x1_convolution(
    channels: int, size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    """Forward as torch has it; gradients as a matrix product in float64 has them: torch's own may write out of bounds."""
    projection = Projection(channels, 2 * channels, 1, 2, bias=False).to(memory_format=memory_format)
    x = torch.randn(3, channels, *size).to(memory_format=memory_format).requires_grad_()
    found = projection(x)
    with torch.no_grad():
        torch.testing.assert_close(found, nn.functional.conv2d(x, projection.weight, stride=2), rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    reference, matrix = x.detach().double().requires_grad_(), projection.weight.detach().double().requires_grad_()
    expected = torch.einsum("oc,bchw->bohw", matrix[:, :, 0, 0], reference[:, :, ::2, ::2])
    (expected * weights.double()).sum().backward()
    torch.testing.assert_close(x.grad.double(), reference.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(projection.weight.grad.double(), matrix.grad, rtol=1e-5, atol=1e-5)
