"""Median, trimmed mean and geometric median, by hand and against corrupt clients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedkd.aggregate import REDUCTIONS, geometric_median, mean, median, renormalise, trimmed_mean


def column(*numbers: float) -> Tensor:
    """Clients that each send one number: (K, 1, 1)."""
    return torch.tensor(numbers, dtype=torch.float64).view(-1, 1, 1)


def points(*rows: tuple[float, float]) -> Tensor:
    """Clients that each send one point of the plane: (K, 1, 2)."""
    return torch.tensor(rows, dtype=torch.float64).unsqueeze(1)


@pytest.mark.recomputed("median", by="hand")
def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    assert median(column(5, 1, 2)).item() == 2
    assert median(column(5, 1, 2, 100)).item() == 3.5


def test_medians_of_probabilities_do_not_sum_to_one_until_renormalised() -> None:
    middle = median(torch.tensor([[[0.8, 0.2, 0.0]], [[0.2, 0.8, 0.0]], [[0.1, 0.1, 0.8]]]))
    torch.testing.assert_close(middle, torch.tensor([[0.2, 0.2, 0.0]]))
    torch.testing.assert_close(renormalise(middle), torch.tensor([[0.5, 0.5, 0.0]]))


@pytest.mark.recomputed("trimmed_mean", by="hand")
def test_the_trimmed_mean_drops_the_share_at_each_end() -> None:
    values = column(-50, 1, 2, 3, 99)
    assert trimmed_mean(values, 0.2).item() == 2
    assert trimmed_mean(values, 0.19).item() == 11  # not a whole client
    assert trimmed_mean(values, 0.4).item() == 2


def test_a_share_is_counted_as_it_is_written() -> None:
    values = torch.arange(100, dtype=torch.float64).square()  # 0.29 * 100 is 28.999999999999996
    assert trimmed_mean(values, 0.29).item() == pytest.approx(values[29:71].mean().item())


@pytest.mark.parametrize("share", [0.5, -0.1, 1.0, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        trimmed_mean(column(1, 2, 3, 4), share)


@pytest.mark.recomputed("geometric_median", by="hand")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (points((0, 0), (1, 2), (5, 10)), (1, 2)),  # on a line: the middle one
        (points((0, 0), (2, 0)), (1, 0)),  # two clients: half-way
        (points((0, 0), (1, 0), (2, 0), (9, 0)), (1.5, 0)),  # an even number on a line: the middle of the middle two
        (points((0, 0), (1, 0), (0.5, 3**0.5 / 2)), (0.5, 3**0.5 / 6)),  # equilateral: the centre
        (points((-9, 1), (0, 0), (9, 1)), (0, 0)),  # an angle above 120 degrees: that corner
        (points((0, 0), (0, 0), (0, 0), (7, 5), (-3, 8)), (0, 0)),  # a majority at one point
        (points((0, 0), (4, 1), (0, 3), (3, 4)), None),  # convex: where the diagonals cross
    ],
)
def test_geometric_medians_known_from_geometry(values: Tensor, expected: tuple[float, float] | None) -> None:
    if expected is None:  # (0, 0)-(3, 4) and (4, 1)-(0, 3): 3t = 4 - 4u, 4t = 1 + 2u
        t = 6 / 11
        expected = (3 * t, 4 * t)
    found = geometric_median(values, iterations=1000, tolerance=1e-10)
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64), atol=1e-7, rtol=0)


@pytest.mark.recomputed("geometric_median", by="formula")
@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(3, 12), st.integers(1, 5), st.integers(0, 2**31))
def test_no_point_near_the_geometric_median_has_a_smaller_sum_of_distances(clients: int, classes: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(clients, 6, classes, generator=rng, dtype=torch.float64)
    centre = geometric_median(values)
    best = (values - centre).norm(dim=-1).mean(0)
    for scale in (1e-3, 0.1, 1.0):
        near = centre + scale * torch.randn(centre.shape, generator=rng, dtype=torch.float64)
        assert ((values - near).norm(dim=-1).mean(0) >= best - 1e-6).all()
    assert ((values[:, None] - values[None]).norm(dim=-1).mean(0) >= best - 1e-12).all()  # no client's point does better


def test_the_geometric_median_of_probabilities_sums_to_one() -> None:
    values = torch.randn(9, 50, 10, generator=torch.Generator().manual_seed(0)).softmax(-1)
    torch.testing.assert_close(geometric_median(values).sum(-1), torch.ones(50))


def test_values_without_rows_have_no_geometric_median() -> None:
    with pytest.raises(ValueError, match=r"\(K, P, C\)"):
        geometric_median(torch.zeros(3, 4))


@pytest.mark.parametrize("name", sorted(set(REDUCTIONS) - {"mean"}))
def test_two_corrupt_clients_of_ten_move_the_mean_but_no_robust_reduction(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    honest = torch.randn(1, 50, 4, generator=rng) + 0.1 * torch.randn(8, 50, 4, generator=rng)
    values = torch.cat([honest, torch.full((2, 50, 4), 1000.0)])
    assert (mean(values) - honest.mean(0)).abs().amin() > 100
    assert (REDUCTIONS[name](values) - honest.mean(0)).abs().amax() < 0.3
