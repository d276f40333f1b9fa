"""Every architecture of the zoo: sizes by hand, shapes, options, and images of any size."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedkd.base.errors import InputError
from fedkd.nets import ZOO, Net, build_net, check_net
from fedkd.nets.resnet18 import Projection
from fedkd.testing.check import checks_of
from fedkd.testing.nets import CHECKS, Kind

SMALL = {"resnet18": {"width": 4}}
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 20, 30)]


@pytest.mark.parametrize("name", sorted(ZOO))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("check", CHECKS)
def test_keeps_what_fedkd_testing_checks(name: str, shape: tuple[int, int, int], check: Callable[[Kind], None]) -> None:
    for bound in checks_of(name, (check,), Kind(name, shape, 7, SMALL.get(name, {}))):
        bound()


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("name", sorted(ZOO))
def test_logits_are_the_classifier_of_the_features_in_either_memory_format(name: str) -> None:
    net = build_net(name, shape=(3, 16, 16), classes=5, options=SMALL.get(name, {})).eval()
    images = torch.randn(4, 3, 16, 16)
    logits = net.head("classifier", net.features(images))
    torch.testing.assert_close(net(images), logits)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(images.to(memory_format=torch.channels_last)), logits)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_maps_come_before_their_relu_as_many_as_are_known(name: str) -> None:
    net = build_net(name, shape=(3, 16, 16), classes=5, options=SMALL.get(name, {})).eval()
    maps = net.outputs(torch.randn(4, 3, 16, 16)).maps
    assert len(maps) == {"mlp": 0, "cnn": 2, "resnet18": 5}.get(name, len(maps))


@pytest.mark.parametrize("name", sorted(ZOO))
def test_keeps_channels_last_through_the_convolutions(name: str) -> None:
    net = build_net(name, shape=(3, 16, 16), classes=5, options=SMALL.get(name, {}))
    net.to(memory_format=torch.channels_last)
    outputs: list[torch.Tensor] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: outputs.extend([inputs[0], output]))
    net(torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last))
    assert all(output.is_contiguous(memory_format=torch.channels_last) for output in outputs)


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
    ],
)
def test_bad_input_is_one_line_that_names_the_cure(name: str, options: dict[str, object], message: str) -> None:
    for refuse in (
        lambda: check_net(name, options, shape=(1, 8, 8)),
        lambda: build_net(name, shape=(1, 8, 8), classes=10, options=options),
    ):
        with pytest.raises(InputError) as error:
            refuse()
        assert message in str(error.value)
        assert "\n" not in str(error.value)


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
