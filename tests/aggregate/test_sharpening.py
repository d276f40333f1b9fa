"""Entropy reduction, powers, and the way back onto the simplex."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedkd.aggregate import entropy_reduction, nearest_on_simplex, power, renormalise

ONE_HOT, UNIFORM = torch.eye(10), torch.full((1, 10), 0.1)
BETWEEN = torch.tensor([[0.55, 0.25, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1]])


def entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(-1)


@pytest.mark.parametrize("sharpen", [entropy_reduction, power])
def test_entropy_falls_between_one_hot_and_uniform_and_classes_keep_their_order(sharpen: Callable[[Tensor], Tensor]) -> None:
    sharper = sharpen(BETWEEN)
    assert (entropy(sharper) < entropy(BETWEEN)).all()
    assert torch.equal(sharper.argsort(stable=True), BETWEEN.argsort(stable=True))
    torch.testing.assert_close(sharper.sum(-1), torch.ones(2))


@pytest.mark.recomputed("entropy_reduction", by="hand")
def test_entropy_reduction_is_a_softmax_of_probabilities_and_blurs_one_hot_rows() -> None:
    assert entropy_reduction(ONE_HOT).amax().item() == pytest.approx(1 / (1 + 9 * 2.718281828**-10), abs=1e-6)
    assert (entropy(entropy_reduction(ONE_HOT)) > 0).all()
    torch.testing.assert_close(entropy_reduction(UNIFORM), UNIFORM)


@settings(deadline=None)
@given(st.floats(0.01, 200))
def test_power_keeps_one_hot_and_uniform_rows(exponent: float) -> None:
    assert torch.equal(power(ONE_HOT, exponent), ONE_HOT)
    torch.testing.assert_close(power(UNIFORM, exponent), UNIFORM)


@pytest.mark.recomputed("power", by="hand")
def test_power_by_hand() -> None:
    torch.testing.assert_close(power(torch.tensor([[0.6, 0.3, 0.1]])), torch.tensor([[36.0, 9.0, 1.0]]) / 46)
    torch.testing.assert_close(power(BETWEEN, 1.0), BETWEEN)


def test_power_neither_underflows_nor_divides_by_zero() -> None:
    tiny = torch.full((1, 4), 1e-30)
    torch.testing.assert_close(power(tiny, 50.0), torch.full((1, 4), 0.25))
    torch.testing.assert_close(power(torch.zeros(1, 4)), torch.full((1, 4), 0.25))


def test_what_does_not_sharpen_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        entropy_reduction(UNIFORM, 0.0)
    with pytest.raises(ValueError, match="exponent"):
        power(UNIFORM, 0.0)
    with pytest.raises(ValueError, match="negative"):
        power(-UNIFORM)


@pytest.mark.recomputed("renormalise", by="hand")
def test_renormalised_medians_sum_to_one_and_logits_are_refused() -> None:
    rows = torch.tensor([[0.5, 0.25], [0.0, 0.0]])
    torch.testing.assert_close(renormalise(rows), torch.tensor([[2 / 3, 1 / 3], [0.5, 0.5]]))
    with pytest.raises(ValueError, match="probabilities: -1 is negative"):
        renormalise(torch.tensor([-1.0, 2.0]))


@pytest.mark.recomputed("nearest_on_simplex", by="formula")
@settings(deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.integers(0, 2**31))
def test_no_point_of_the_simplex_is_nearer(row: list[float], seed: int) -> None:
    point = torch.tensor(row, dtype=torch.float64)
    nearest = nearest_on_simplex(point)
    assert (nearest >= 0).all()
    torch.testing.assert_close(nearest.sum(), torch.ones((), dtype=torch.float64))
    others = torch.rand(50, len(row), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log().neg()
    others = torch.cat([others / others.sum(1, keepdim=True), torch.eye(len(row), dtype=torch.float64)])
    assert ((others - point).norm(dim=1) >= (nearest - point).norm() - 1e-9).all()
