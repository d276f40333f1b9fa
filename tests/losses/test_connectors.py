"""Connectors: the shapes they join, what they are made of, and what they refuse."""

import math

import pytest
import torch
from torch import nn

from fedkd.losses import BoundaryConnector, ConvolutionalRegressor, OverhaulConnector, ab_loss, hint_loss, ofd_loss

REGRESSORS = [ConvolutionalRegressor, BoundaryConnector]
CONNECTORS = [*REGRESSORS, OverhaulConnector]


@pytest.fixture(autouse=True)
def _same_weights_in_every_run() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("connector", REGRESSORS)
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((28, 28), (14, 14)),
        ((7, 7), (7, 7)),
        ((14, 14), (28, 28)),
        ((10, 10), (7, 7)),
        ((32, 32), (8, 8)),
        ((7, 7), (10, 10)),
        ((4, 4), (16, 16)),
        ((8, 3), (4, 6)),
        ((9, 6), (5, 5)),
        ((1, 1), (3, 3)),
    ],
)
def test_brings_any_size_to_any_other(connector: type[nn.Module], student: tuple[int, int], teacher: tuple[int, int]) -> None:
    join = connector((3, *student), (5, *teacher))
    student_map = torch.randn(2, 3, *student).requires_grad_()
    joined = join(student_map)
    assert joined.shape == (2, 5, *teacher)
    hint_loss(joined, torch.randn(2, 5, *teacher)).backward()
    assert student_map.grad is not None
    assert student_map.grad.any()
    assert all(parameter.grad.isfinite().all() for parameter in join.parameters())


@pytest.mark.parametrize(
    ("size", "layer"),
    [
        (14, "Conv2d(3, 5, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))"),
        (56, "ConvTranspose2d(3, 5, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))"),
        (28, "Conv2d(3, 5, kernel_size=(1, 1), stride=(1, 1))"),
        (20, "Conv2d(3, 5, kernel_size=(9, 9), stride=(1, 1))"),
    ],
)
def test_the_regressors_layer_for_each_of_repdistillers_cases(size: int, layer: str) -> None:
    assert repr(ConvolutionalRegressor((3, 28, 28), (5, size, size)).join) == layer


@pytest.mark.recomputed("ConvolutionalRegressor", by="formula")
@pytest.mark.parametrize("size", [7, 84])
def test_other_sizes_are_averaged_or_repeated_and_then_mixed_place_by_place(size: int) -> None:
    regressor = ConvolutionalRegressor((3, 28, 28), (5, size, size)).eval()
    layer = regressor.join[-1]
    assert isinstance(layer, nn.Conv2d)
    assert layer.kernel_size == (1, 1)
    student = torch.randn(2, 3, 28, 28)
    if size < 28:
        resized = student.view(2, 3, 7, 4, 7, 4).mean((3, 5))
    else:
        resized = student.repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(regressor(student), regressor.activation(regressor.norm(layer(resized))))


def test_the_relu_is_the_only_difference_that_relu_false_makes() -> None:
    student = torch.randn(4, 3, 6, 6)
    rectified = ConvolutionalRegressor((3, 6, 6), (5, 3, 3))
    linear = ConvolutionalRegressor((3, 6, 6), (5, 3, 3), relu=False)
    linear.load_state_dict(rectified.state_dict())
    assert (linear(student) < 0).any()
    torch.testing.assert_close(linear(student).relu(), rectified(student))


def test_a_boundary_connector_between_equal_shapes_has_nothing_to_learn() -> None:
    connector = BoundaryConnector((3, 4, 4), (3, 4, 4))
    assert not list(connector.parameters())
    student = torch.randn(2, 3, 4, 4)
    assert connector(student) is student


def test_a_boundary_connector_gives_negative_activations_too() -> None:
    joined = BoundaryConnector((3, 8, 8), (5, 4, 4))(torch.randn(2, 3, 8, 8))
    assert (joined < 0).any()
    assert ab_loss(joined, torch.randn(2, 5, 4, 4)) > 0


@pytest.mark.recomputed("OverhaulConnector", by="formula")
def test_an_overhaul_connector_mixes_channels_place_by_place_and_normalises_them() -> None:
    connector = OverhaulConnector((3, 8, 8), (5, 8, 8))
    student = torch.randn(4, 3, 8, 8)
    joined = connector(student)
    torch.testing.assert_close(joined.mean((0, 2, 3)), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(joined.var((0, 2, 3), correction=0), torch.ones(5), rtol=1e-3, atol=0)
    mixed = torch.einsum("dc,bchw->bdhw", connector.join.weight[:, :, 0, 0], student)
    torch.testing.assert_close(joined, connector.norm(mixed))
    assert ofd_loss(joined, torch.randn(4, 5, 8, 8), -torch.ones(5)) > 0


def test_an_overhaul_connector_starts_from_a_normal_of_variance_two_over_the_teachers_channels() -> None:
    weight = OverhaulConnector((200, 1, 1), (50, 1, 1)).join.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 50), rel=0.03)
    assert abs(weight.mean().item()) < 0.01


@pytest.mark.parametrize("connector", CONNECTORS)
def test_is_trained_with_the_student_until_it_reaches_the_teacher(connector: type[nn.Module]) -> None:
    join = connector((3, 4, 4), (5, 4, 4))
    student, teacher = torch.randn(8, 3, 4, 4), torch.randn(8, 5, 4, 4).relu()
    optimiser = torch.optim.SGD(join.parameters(), lr=0.5)
    first = hint_loss(join(student), teacher).item()
    for _ in range(10):
        optimiser.zero_grad()
        loss = hint_loss(join(student), teacher)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.9 * first


@pytest.mark.parametrize("connector", CONNECTORS)
def test_a_state_dict_carries_all_of_it(connector: type[nn.Module]) -> None:
    one, other = (connector((3, 4, 4), (5, 4, 4)) for _ in range(2))
    student = torch.randn(2, 3, 4, 4)
    assert not torch.equal(one(student), other(student))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(student), other(student))


@pytest.mark.parametrize("connector", CONNECTORS)
def test_refuses_what_is_no_shape_and_maps_of_another(connector: type[nn.Module]) -> None:
    name = connector.__name__
    with pytest.raises(ValueError, match=rf"{name}: student_shape is \(2, 3, 4, 4\); expected \(c, h, w\), each at least 1"):
        connector((2, 3, 4, 4), (5, 4, 4))
    with pytest.raises(ValueError, match=rf"{name}: teacher_shape is \(5, 0, 4\); expected \(c, h, w\), each at least 1"):
        connector((3, 4, 4), (5, 0, 4))
    with pytest.raises(ValueError, match=rf"{name}: student is \(2, 3, 5, 5\); expected \(B, 3, 4, 4\)"):
        connector((3, 4, 4), (5, 4, 4))(torch.zeros(2, 3, 5, 5))


def test_an_overhaul_connector_refuses_unequal_sizes() -> None:
    with pytest.raises(ValueError, match=r"the sizes of student and teacher differ, \(8, 8\) and \(4, 4\): choose layers"):
        OverhaulConnector((3, 8, 8), (5, 4, 4))
