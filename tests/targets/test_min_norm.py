"""AE-KD's shares: the conditions of optimality, values by hand, a search, and the gradients that they are for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.targets import min_norm, min_norm_weights
from fedkd.targets.capped_simplex import optimality_gap

B, C = 4, 5


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def squared_norm(weights: Tensor, gradients: Tensor) -> float:
    return float((weights[:, None] * gradients).sum(0).square().sum())


def assert_optimal(weights: Tensor, gradients: Tensor, cap: float) -> None:
    """The conditions of Karush, Kuhn and Tucker, to 1e-6: a level separates who is at the cap, between and at 0."""
    assert weights.sum().item() == pytest.approx(1, abs=1e-9)
    assert weights.amin() >= 0
    assert weights.amax() <= cap + 1e-9
    scale = gradients.square().sum(1).amax().item() or 1.0
    slopes = gradients @ (weights[:, None] * gradients).sum(0) / scale  # (K,)
    may_fall, may_grow = slopes[weights > 1e-5], slopes[weights < cap - 1e-5]
    if len(may_fall) and len(may_grow):  # no share moved from the one to the other makes the mixture shorter
        assert may_fall.amax() <= may_grow.amin() + 1e-6


@pytest.mark.recomputed("min_norm_weights", by="formula")
@pytest.mark.parametrize("cap", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("width", [1, 2, 5, 100])
@pytest.mark.parametrize("teachers", [4, 5, 10])
def test_no_share_moved_makes_the_mixture_shorter(teachers: int, width: int, cap: float) -> None:
    for seed in range(5):
        gradients = rows(seed, teachers, width) + rows(seed + 100, 1, width)
        assert_optimal(min_norm_weights(gradients, cap=cap), gradients, cap)


@pytest.mark.slow
@given(
    st.integers(2, 5).flatmap(
        lambda k: st.lists(
            st.lists(st.sampled_from([0.0, 1.0, -1.0, 1e-3]) | st.floats(-100, 100), min_size=3, max_size=3),
            min_size=k,
            max_size=k,
        )
    ),
    st.sampled_from([0.55, 0.6, 1.0]),
)
def test_also_of_gradients_that_are_zero_equal_or_far_apart(gradients: list[list[float]], cap: float) -> None:
    tensor = torch.tensor(gradients, dtype=torch.float64)
    assert_optimal(min_norm_weights(tensor, cap=cap), tensor, cap)


@pytest.mark.recomputed("min_norm_weights", by="formula")
@pytest.mark.slow
@pytest.mark.parametrize("cap", [0.4, 0.6, 1.0])
def test_no_point_of_a_grid_is_shorter(cap: float) -> None:
    gradients = rows(7, 3, 4)
    found = squared_norm(min_norm_weights(gradients, cap=cap), gradients)
    grid = [(i / 100, j / 100, (100 - i - j) / 100) for i in range(101) for j in range(101 - i)]
    best = min(squared_norm(torch.tensor(p).double(), gradients) for p in grid if max(p) <= cap)
    assert best - 0.05 <= found <= best + 1e-9


@pytest.mark.recomputed("min_norm_weights", by="hand")
def test_two_gradients_by_hand() -> None:
    one, other = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    both = torch.stack([one, other])  # the foot of the perpendicular from 0: shares as 16 to 9
    assert min_norm_weights(both, cap=1.0).tolist() == pytest.approx([16 / 25, 9 / 25])
    assert min_norm_weights(both).tolist() == pytest.approx([0.6, 0.4])  # the cap
    assert min_norm_weights(torch.stack([one, 2 * one]), cap=1.0).tolist() == pytest.approx([1, 0], abs=1e-9)  # the shorter
    assert min_norm_weights(torch.stack([one, -2 * one]), cap=1.0).tolist() == pytest.approx([2 / 3, 1 / 3])  # to 0


def test_only_the_ratios_of_gradients_count() -> None:
    gradients = rows(3, 4, 6)
    expected = min_norm_weights(gradients)
    for scale in (1e-200, 1e-8, 1e8, 1e200):
        torch.testing.assert_close(min_norm_weights(scale * gradients), expected)


def test_equal_gradients_share_what_one_would_have() -> None:
    one, other = rows(4, 2, 3)
    apart, together = (min_norm_weights(torch.stack(list(g)), cap=1.0) for g in ((one, other), (one, other, other)))
    torch.testing.assert_close(together, torch.stack([apart[0], apart[1] / 2, apart[1] / 2]), rtol=0, atol=1e-6)


def test_a_cap_that_no_shares_satisfy_gives_equal_shares() -> None:
    assert min_norm_weights(rows(5, 4, 3), cap=0.1).tolist() == [0.25] * 4
    assert min_norm_weights(rows(5, 1, 3), cap=0.6).tolist() == [1.0]
    assert min_norm_weights(torch.zeros(3, 2)).tolist() == pytest.approx([1 / 3] * 3)


def test_gradients_that_are_none_are_refused() -> None:
    for gradients in (torch.zeros(3), torch.zeros(0, 3), torch.tensor([[math.nan]])):
        with pytest.raises(ValueError, match="min_norm_weights: gradients are"):
            min_norm_weights(gradients)


@pytest.mark.recomputed("min_norm", by="formula")
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_shares_are_those_of_the_gradients_of_distillation(temperature: float) -> None:
    logits, student = 2 * rows(8, 3, B, C), rows(9, B, C).requires_grad_()
    gradients = []
    for teacher in logits:
        p, log_q = (teacher / temperature).softmax(1), (student / temperature).log_softmax(1)
        loss = temperature**2 * (p * (p.log() - log_q)).sum(1).mean()
        (gradient,) = torch.autograd.grad(loss, student)  # (B, C)
        gradients.append(gradient.mean(0))
    weights = min_norm_weights(torch.stack(gradients))
    expected = sum(w * (teacher / temperature).softmax(1) for w, teacher in zip(weights, logits, strict=True))
    torch.testing.assert_close(min_norm(logits, student, temperature=temperature).values, expected)


def test_a_student_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"min_norm: the student's logits are \(4, 5\) as a teacher's, not \(4, 6\)"):
        min_norm(rows(0, 2, B, C), rows(1, B, C + 1))


def test_the_optimality_gap_bounds_the_distance_to_the_minimum() -> None:
    gradients = rows(10, 4, 6)
    least = squared_norm(min_norm_weights(gradients), gradients)
    for seed in range(20):
        shares = rows(seed, 4).div(4).softmax(0)
        slopes = 2 * gradients @ (shares[:, None] * gradients).sum(0)
        assert squared_norm(shares, gradients) - least <= optimality_gap(shares[None], slopes[None], 0.6).item() + 1e-9
