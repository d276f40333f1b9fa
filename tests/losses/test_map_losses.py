"""The losses on feature maps against values by hand, their definitions in loops, their invariances, and faults."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from fedkd.base.errors import InputError
from fedkd.losses import ab_loss, at_loss, cwd_loss, hint_loss, nst_loss, ofd_loss, ofd_margin
from fedkd.losses.spatial import match_spatial


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


B, CHANNELS, HEIGHT, WIDTH = SHAPE = (3, 4, 2, 3)
STUDENT, TEACHER, WIDE_TEACHER = maps(0, *SHAPE), maps(1, *SHAPE), maps(2, B, 6, HEIGHT, WIDTH)
MARGIN = torch.tensor([-0.5, -1.0, -0.1, -2.0], dtype=torch.float64)
PERMUTATION = torch.tensor([2, 0, 3, 1])
#: Every loss of this file, with each preset.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hint": hint_loss,
    "at": at_loss,
    "at, p = 4": partial(at_loss, p=4),
    "at, paper": partial(at_loss, preset="paper"),
    "at, kd_lib": partial(at_loss, p=3, preset="kd_lib"),
    "nst": nst_loss,
    "ab": ab_loss,
    "ab, kd_zoo": partial(ab_loss, margin=0.5, preset="kd_zoo"),
    "ofd": lambda student, teacher: ofd_loss(student, teacher, MARGIN[: student.shape[1]]),
    "cwd": cwd_loss,
    "cwd, T = 1": partial(cwd_loss, temperature=1.0),
}


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> Callable[[Tensor, Tensor], Tensor]:
    return LOSSES[request.param]


# What all of them owe


def test_gradcheck(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert gradcheck(lambda student: loss(student, TEACHER), [STUDENT.clone().requires_grad_()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        pytest.param(1e4 * STUDENT, 1e4 * TEACHER, id="large"),
        pytest.param(1e-25 * STUDENT, 1e-25 * TEACHER, id="tiny"),
        pytest.param(0 * STUDENT, TEACHER, id="student of zeros"),
        pytest.param(STUDENT, 0 * TEACHER, id="teacher of zeros"),
        pytest.param(0 * STUDENT, 0 * TEACHER, id="both of zeros"),
        pytest.param(STUDENT, STUDENT, id="equal"),
        pytest.param(STUDENT.relu() * torch.tensor([1, 0, 1, 1])[:, None, None], TEACHER, id="a dead channel"),
        pytest.param(STUDENT[:1, :1, :1, :1], TEACHER[:1, :1, :1, :1], id="one number"),
    ],
)
def test_is_finite_with_a_finite_gradient(
    loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor, dtype: torch.dtype
) -> None:
    student = student.detach().to(dtype).requires_grad_()
    value = loss(student, teacher.to(dtype))
    assert value.shape == ()
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert value.isfinite()
    value.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_is_the_mean_over_the_batch(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    alone = torch.stack([loss(s[None], t[None]) for s, t in zip(STUDENT, TEACHER, strict=True)])
    torch.testing.assert_close(loss(STUDENT, TEACHER), alone.mean())


@pytest.mark.parametrize("name", ["hint", "at", "at, paper", "at, kd_lib", "nst", "cwd"])
def test_vanishes_where_the_student_is_the_teacher(name: str) -> None:
    assert LOSSES[name](TEACHER, TEACHER).item() == pytest.approx(0, abs=1e-12)
    assert LOSSES[name](STUDENT, TEACHER) > 1e-3


@pytest.mark.parametrize("name", ["hint", "ab", "ab, kd_zoo", "ofd", "cwd"])
def test_refuses_maps_of_unequal_shape(name: str) -> None:
    with pytest.raises(ValueError, match=r"_loss: the shapes of student and teacher differ, .* and \(3, 6, 2, 3\): bring"):
        LOSSES[name](STUDENT, WIDE_TEACHER)


@pytest.mark.parametrize("name", ["at", "nst"])
def test_refuses_what_is_no_map_of_the_same_batch(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}_loss: student is \(3, 4\); expected \(B, c, h, w\)"):
        LOSSES[name](STUDENT[:, :, 0, 0], TEACHER)
    with pytest.raises(ValueError, match=rf"{name}_loss: teacher is \(2, 4, 2, 3\); expected \(3, c, h, w\)"):
        LOSSES[name](STUDENT, TEACHER[:2])


@pytest.mark.parametrize("loss", [at_loss, ab_loss])
def test_refuses_an_unknown_preset(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(InputError, match=f"unknown {loss.__name__}: preset 'repdistiler': did you mean 'repdistiller'"):
        loss(STUDENT, TEACHER, preset="repdistiler")


# Sizes


def test_match_spatial_averages_each_axis_of_the_larger_map() -> None:
    tall, wide = maps(0, 2, 1, 4, 2), maps(1, 2, 5, 2, 4)
    short, narrow = match_spatial(tall, wide)
    assert short.shape == (2, 1, 2, 2)
    assert narrow.shape == (2, 5, 2, 2)
    torch.testing.assert_close(short[:, :, 0], (tall[:, :, 0] + tall[:, :, 1]) / 2)
    torch.testing.assert_close(narrow[..., 1], (wide[..., 2] + wide[..., 3]) / 2)


def test_match_spatial_returns_what_fits_as_it_is() -> None:
    assert match_spatial(STUDENT, TEACHER) == (STUDENT, TEACHER)
    assert match_spatial(STUDENT, maps(0, B, 1, 7, 7))[0] is STUDENT


@pytest.mark.parametrize("name", ["at", "at, paper", "at, kd_lib", "nst"])
def test_maps_of_other_sizes_are_averaged_first(name: str) -> None:
    loss, large = LOSSES[name], maps(3, B, CHANNELS, 2 * HEIGHT, 2 * WIDTH)
    small = large.view(B, CHANNELS, HEIGHT, 2, WIDTH, 2).mean((3, 5))
    torch.testing.assert_close(loss(STUDENT, large), loss(STUDENT, small))
    torch.testing.assert_close(loss(large, TEACHER), loss(small, TEACHER))


# Hints


@pytest.mark.recomputed("hint_loss", by="formula")
def test_hint_loss_is_the_mean_square_over_all_elements() -> None:
    total = sum((s - t) ** 2 for s, t in zip(STUDENT.flatten().tolist(), TEACHER.flatten().tolist(), strict=True))
    assert hint_loss(STUDENT, TEACHER).item() == pytest.approx(total / math.prod(SHAPE), rel=1e-9)


# Attention transfer


def attention(sample: Tensor, p: float) -> Tensor:
    """The definition for one sample, place by place."""
    energy = torch.tensor(
        [sum(abs(x) ** p for x in sample[:, i, j].tolist()) for i in range(HEIGHT) for j in range(WIDTH)], dtype=torch.float64
    )
    return energy / math.sqrt(sum(e**2 for e in energy.tolist()))


@pytest.mark.recomputed("at_loss", by="formula")
@pytest.mark.parametrize("p", [1, 2, 3])
def test_at_loss_is_its_definition_in_every_preset(p: int) -> None:
    differences = [attention(s, p) - attention(t, p) for s, t in zip(STUDENT, WIDE_TEACHER, strict=True)]
    places = HEIGHT * WIDTH
    expected = {
        "repdistiller": sum((d**2).sum() / places for d in differences) / B,
        "paper": sum((d**2).sum().sqrt() for d in differences) / B,
    }
    for preset, value in expected.items():
        torch.testing.assert_close(at_loss(STUDENT, WIDE_TEACHER, p=p, preset=preset), value, rtol=1e-9, atol=0)


@pytest.mark.parametrize("p", [2, 3])
def test_at_loss_of_kd_lib_keeps_the_channels_as_its_code_does(p: int) -> None:
    def of_its_code(activation: Tensor) -> Tensor:  # KD_Lib/KD/vision/attention/loss_metric.py; maps after a ReLU
        return F.normalize(activation.pow(p).view(activation.size(0), -1))

    student, teacher = STUDENT.relu(), TEACHER.relu()
    expected = (of_its_code(student) - of_its_code(teacher)).abs().pow(p).mean()
    torch.testing.assert_close(at_loss(student, teacher, p=p, preset="kd_lib"), expected, rtol=1e-9, atol=0)
    assert at_loss(student, student[:, PERMUTATION], p=p, preset="kd_lib") > 1e-3  # the same attention, in other channels
    with pytest.raises(ValueError, match="'kd_lib' compares channel with channel, and student and teacher have 4 and 6"):
        at_loss(STUDENT, WIDE_TEACHER, preset="kd_lib")


@pytest.mark.parametrize("preset", ["repdistiller", "paper"])
def test_at_loss_sees_neither_scale_nor_sign_nor_order_of_channels(preset: str) -> None:
    loss = partial(at_loss, preset=preset)
    expected = loss(STUDENT, TEACHER)
    for student, teacher in [
        (1e5 * STUDENT, TEACHER),
        (STUDENT, 1e-9 * TEACHER),  # smaller than the epsilons of the libraries
        (-STUDENT, TEACHER),
        (STUDENT[:, PERMUTATION], TEACHER),
        (STUDENT.repeat(1, 3, 1, 1), TEACHER),
    ]:
        torch.testing.assert_close(loss(student, teacher), expected)


def test_at_loss_does_not_overflow_at_a_large_p() -> None:
    one_place = torch.tensor([[[[1e4, 0.0]]]])  # 1e4 ** 40 is not a float32
    assert at_loss(one_place, one_place.flip(3), p=40).item() == 1.0  # (1, 0) and (0, 1)


def test_at_loss_of_attention_at_different_places_is_its_largest() -> None:
    here, there = torch.tensor([[[[9.0, 0.0]]]]), torch.tensor([[[[0.0, 0.1]]]])
    assert at_loss(here, there).item() == 1.0  # 2 / hw
    assert at_loss(here, there, preset="paper").item() == pytest.approx(math.sqrt(2))


def test_at_loss_refuses_a_p_without_a_gradient_at_zero() -> None:
    with pytest.raises(ValueError, match=r"at_loss: p is 0\.5; expected at least 1"):
        at_loss(STUDENT, TEACHER, p=0.5)


# Neuron selectivity


@pytest.mark.recomputed("nst_loss", by="formula")
def test_nst_loss_is_its_definition() -> None:
    def mean_kernel(x: Tensor, y: Tensor) -> float:
        rows_x, rows_y = x.flatten(1), y.flatten(1)
        kernels = [(float(a @ b) / float(a.norm() * b.norm())) ** 2 for a in rows_x for b in rows_y]
        return sum(kernels) / len(kernels)

    pairs = list(zip(STUDENT, WIDE_TEACHER, strict=True))
    expected = sum(mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t) for s, t in pairs) / B
    assert nst_loss(STUDENT, WIDE_TEACHER).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.recomputed("nst_loss", by="formula")
def test_nst_loss_is_the_squared_distance_of_second_moments() -> None:
    """(x . y)^2 is the inner product of x x^T and y y^T: the discrepancy is the distance of their means."""
    s, t = (torch.nn.functional.normalize(x.flatten(2), dim=2) for x in (STUDENT, WIDE_TEACHER))  # (B, c, hw)
    distance = s.mT @ s / CHANNELS - t.mT @ t / 6  # (B, hw, hw)
    torch.testing.assert_close(nst_loss(STUDENT, WIDE_TEACHER), distance.square().sum((1, 2)).mean())


def test_nst_loss_sees_neither_scale_nor_sign_nor_order_of_channels() -> None:
    expected = nst_loss(STUDENT, TEACHER)
    scales = torch.tensor([5.0, -1.0, 0.1, -3.0])[:, None, None]
    torch.testing.assert_close(nst_loss(STUDENT * scales, TEACHER), expected)
    torch.testing.assert_close(nst_loss(STUDENT[:, PERMUTATION], TEACHER), expected)
    torch.testing.assert_close(nst_loss(STUDENT, TEACHER.repeat(1, 2, 1, 1)), expected)


# Activation boundaries


@pytest.mark.recomputed("ab_loss", by="formula")
@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_ab_loss_is_its_definition_in_both_presets(margin: float) -> None:
    total = 0.0
    for s, t in zip(STUDENT.flatten().tolist(), TEACHER.flatten().tolist(), strict=True):
        total += (s + margin) ** 2 * (s > -margin and t <= 0) + (s - margin) ** 2 * (s <= margin and t > 0)
    assert ab_loss(STUDENT, TEACHER, margin=margin).item() == pytest.approx(total / B, rel=1e-9)
    mean = ab_loss(STUDENT, TEACHER, margin=margin, preset="kd_zoo")
    assert mean.item() == pytest.approx(total / math.prod(SHAPE), rel=1e-9)


def test_ab_loss_vanishes_beyond_the_margin_on_the_teachers_side() -> None:
    assert ab_loss(TEACHER.sign() * 1.5, TEACHER).item() == 0
    assert ab_loss(-TEACHER.sign() * 1.5, TEACHER).item() == 2.5**2 * math.prod(SHAPE) / B


def test_ab_loss_sees_the_teachers_sign_alone_and_zero_is_off() -> None:
    torch.testing.assert_close(ab_loss(STUDENT, 1e6 * TEACHER), ab_loss(STUDENT, TEACHER))
    torch.testing.assert_close(ab_loss(STUDENT, 0 * TEACHER), ab_loss(STUDENT, -torch.ones(SHAPE)))


# Overhaul


@pytest.mark.recomputed("ofd_loss", by="formula")
def test_ofd_loss_is_its_definition() -> None:
    total = 0.0
    for b, c, i, j in torch.cartesian_prod(*map(torch.arange, SHAPE)).tolist():
        s, t, margin = STUDENT[b, c, i, j].item(), TEACHER[b, c, i, j].item(), MARGIN[c].item()
        target = max(t, margin)
        if s > target or t > 0:
            total += (s - target) ** 2
    assert ofd_loss(STUDENT, TEACHER, MARGIN).item() == pytest.approx(total / B, rel=1e-9)


def test_ofd_loss_leaves_a_student_alone_that_is_below_a_negative_target() -> None:
    teacher, margin = torch.full((1, 1, 1, 1), -7.0), torch.tensor([-2.0])
    below, above = torch.full((1, 1, 1, 1), -5.0), torch.full((1, 1, 1, 1), -1.0)
    assert ofd_loss(below, teacher, margin).item() == 0
    assert ofd_loss(above, teacher, margin).item() == 1  # from -1 to -2, not to -7


def test_ofd_loss_teaches_no_margin() -> None:
    margin = MARGIN.clone().requires_grad_()
    ofd_loss(STUDENT.clone().requires_grad_(), TEACHER, margin).backward()
    assert margin.grad is None


def test_ofd_loss_refuses_a_margin_of_other_channels() -> None:
    with pytest.raises(ValueError, match=r"ofd_loss: margin is \(3,\); expected \(4\)"):
        ofd_loss(STUDENT, TEACHER, MARGIN[:3])


@pytest.mark.recomputed("ofd_margin", by="formula")
def test_ofd_margin_is_the_mean_of_negative_draws() -> None:
    weight, bias = torch.tensor([1.0, -2.0, 0.5, 1.0]), torch.tensor([0.0, 1.5, -1.0, 2.5])
    draws = torch.randn(400_000, 4, generator=torch.Generator().manual_seed(0)) * weight + bias
    expected = torch.stack([column[column < 0].mean() for column in draws.T])
    torch.testing.assert_close(ofd_margin(weight, bias), expected, rtol=0.02, atol=0)


@pytest.mark.recomputed("ofd_margin", by="formula")
def test_ofd_margin_is_its_formula() -> None:
    weight, bias = maps(4, 50), maps(5, 50)
    for sigma, mu, margin in zip(weight.abs().tolist(), bias.tolist(), ofd_margin(weight, bias).tolist(), strict=True):
        negative = (1 + math.erf(-mu / sigma / math.sqrt(2))) / 2
        mean = mu - sigma * math.exp(-((mu / sigma) ** 2) / 2) / math.sqrt(2 * math.pi) / negative if negative else 0
        assert margin == pytest.approx(mean if negative > 0.001 else -3 * sigma, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_ofd_margin_at_the_limits(dtype: torch.dtype) -> None:
    weight = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 1e-30], dtype=dtype)
    bias = torch.tensor([-100.0, 100.0, -1.0, 1.0, 0.0, -1.0], dtype=dtype)
    margin = ofd_margin(weight, bias)
    assert margin.tolist() == [-100.0, -3.0, -1.0, 0.0, 0.0, -1.0]  # all negative, none, three constants, nearly constant
    assert margin.dtype == torch.promote_types(dtype, torch.float32)


def test_ofd_margin_refuses_unequal_channels() -> None:
    with pytest.raises(ValueError, match=r"ofd_margin: bias is \(2,\); expected \(3\)"):
        ofd_margin(torch.ones(3), torch.ones(2))


# Channel-wise


@pytest.mark.recomputed("cwd_loss", by="formula")
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cwd_loss_is_its_definition(temperature: float) -> None:
    def softmax(channel: Tensor) -> list[float]:
        powers = [math.exp(x / temperature) for x in channel.flatten().tolist()]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for student, teacher in zip(STUDENT.flatten(0, 1), TEACHER.flatten(0, 1), strict=True):
        total += sum(p * math.log(p / q) for p, q in zip(softmax(teacher), softmax(student), strict=True))
    expected = temperature**2 * total / (B * CHANNELS)
    assert cwd_loss(STUDENT, TEACHER, temperature=temperature).item() == pytest.approx(expected, rel=1e-9)


def test_cwd_loss_sees_no_offset_of_a_channel() -> None:
    offsets = 100 * maps(6, B, CHANNELS, 1, 1)
    torch.testing.assert_close(cwd_loss(STUDENT + offsets, TEACHER), cwd_loss(STUDENT, TEACHER))
    torch.testing.assert_close(cwd_loss(STUDENT, TEACHER - offsets), cwd_loss(STUDENT, TEACHER))


def test_cwd_loss_sees_no_common_order_of_channels_or_places() -> None:
    def shuffled(x: Tensor) -> Tensor:
        return x[:, PERMUTATION].flip(3)

    torch.testing.assert_close(cwd_loss(shuffled(STUDENT), shuffled(TEACHER)), cwd_loss(STUDENT, TEACHER))
    assert cwd_loss(STUDENT[:, PERMUTATION], TEACHER) != cwd_loss(STUDENT, TEACHER)


def test_cwd_loss_is_finite_at_temperature_0_01() -> None:
    student = (1e4 * STUDENT).float().requires_grad_()
    loss = cwd_loss(student, (1e4 * TEACHER).float(), temperature=0.01)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
