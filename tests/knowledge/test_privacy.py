"""Noise, votes and subsamples against values by hand, closed forms and statistics that a fixed seed makes certain."""

import math

import pytest
import torch
from torch import Tensor

from fedkd.aggregate import nearest_on_simplex
from fedkd.base.errors import InputError
from fedkd.knowledge.privacy import (
    A_SAMPLE_OF_A_CLIENT,
    Guarantee,
    clip_and_noise,
    gaussian_epsilon,
    largest_subsample,
    noisy_votes,
    noisy_votes_epsilon,
    subsample_guarantee,
    subsample_once,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=rng(7))


def exact_epsilon(noise: float, delta: float) -> float:
    """Balle and Wang 2018, arXiv 1805.06530, theorem 8, by bisection: no accountant can do better for one Gaussian."""

    def delta_at(epsilon: float) -> float:
        normal = torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
        low, high = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
        return float(normal.cdf(torch.tensor(low)) - math.exp(epsilon) * normal.cdf(torch.tensor(high)))

    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    return high


def test_without_noise_a_small_table_is_as_it_was_and_a_large_one_has_the_norm_asked_for() -> None:
    table = torch.tensor([[3.0, 0.0], [0.0, 4.0]])  # norm 5
    assert torch.equal(clip_and_noise(table, clip=5.0, noise_multiplier=0.0, rng=rng()), table)
    assert torch.allclose(clip_and_noise(table, clip=1.0, noise_multiplier=0.0, rng=rng()), table / 5)


def test_a_table_of_zeros_is_not_divided_by_zero() -> None:
    assert clip_and_noise(torch.zeros(3, 2), clip=1.0, noise_multiplier=0.0, rng=rng()).tolist() == [[0, 0]] * 3


def test_the_noise_is_as_wide_as_clip_times_multiplier_and_the_same_for_the_same_seed() -> None:
    table = torch.zeros(1000, 10)
    noisy = clip_and_noise(table, clip=0.5, noise_multiplier=4.0, rng=rng())
    assert noisy.std().item() == pytest.approx(2.0, rel=0.02)
    assert noisy.mean().item() == pytest.approx(0.0, abs=0.05)
    assert torch.equal(noisy, clip_and_noise(table, clip=0.5, noise_multiplier=4.0, rng=rng()))
    assert not torch.equal(noisy, clip_and_noise(table, clip=0.5, noise_multiplier=4.0, rng=rng(1)))


def test_noise_without_a_generator_is_as_wide_and_never_the_same() -> None:
    tables = [clip_and_noise(torch.zeros(100, 100), clip=0.5, noise_multiplier=4.0, rng=None) for _ in range(2)]
    assert tables[0].std().item() == pytest.approx(2.0, rel=0.1)
    assert not torch.equal(*tables)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_does_not_show_through_the_noise(bad: float) -> None:
    noisy = [clip_and_noise(torch.tensor([[value, 0.5]]), clip=1.0, noise_multiplier=1.0, rng=rng()) for value in (bad, 0.0)]
    assert torch.equal(*noisy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_noisy_table_keeps_its_type_and_the_one_given_is_left_alone(dtype: torch.dtype) -> None:
    table = uniform(4, 3).to(dtype)
    before = table.clone()
    noisy = clip_and_noise(table, clip=1.0, noise_multiplier=1.0, rng=rng())
    assert noisy.dtype == nearest_on_simplex(noisy).dtype == dtype
    assert torch.equal(table, before)


def test_nearest_on_simplex_gives_distributions_and_leaves_distributions_alone() -> None:
    rows = nearest_on_simplex(5 * torch.randn(200, 7, generator=rng()))
    assert (rows >= 0).all()
    assert torch.allclose(rows.sum(1), torch.ones(200))
    assert torch.allclose(nearest_on_simplex(rows), rows, atol=1e-6)


def test_nearest_on_simplex_is_the_nearest_of_many_distributions_and_keeps_the_order() -> None:
    row = torch.tensor([[0.7, -0.4, 0.6, 0.1]])
    nearest = nearest_on_simplex(row)
    others = torch.empty(5000, 4).exponential_(generator=rng())
    others /= others.sum(1, keepdim=True)
    assert (nearest - row).norm() <= (others - row).norm(dim=1).min()
    assert (nearest[0, 0] - nearest[0, 2]).item() == pytest.approx(0.1)


def test_nearest_on_simplex_ignores_an_offset_of_the_whole_row() -> None:
    rows = torch.randn(20, 5, generator=rng())
    assert torch.allclose(nearest_on_simplex(rows), nearest_on_simplex(rows + 3), atol=1e-6)


@pytest.mark.parametrize("noise_multiplier", [2.0, 10.0])
@pytest.mark.parametrize("releases", [1, 25])
def test_gaussian_epsilon_bounds_the_exact_value_of_data_exchanged_for_other_data(
    noise_multiplier: float, releases: int
) -> None:
    exact = exact_epsilon(noise_multiplier / 2 / math.sqrt(releases), 1e-5)  # two tables may be 2 clip apart
    assert exact <= gaussian_epsilon(noise_multiplier, releases, 1e-5) <= 1.15 * exact


def test_two_tables_with_noise_of_four_clips_by_hand() -> None:
    """Half of 4 are 2 sensitivities: RDP of order a costs a / 8 a table. Of two, a / 4 + ln(1e5) / (a - 1) is least at 7.79.

    That is Mironov 2017, proposition 3, arXiv 1702.07476: 1.946 + 1.697; the accountant converts more tightly.
    """
    order = 1 + math.sqrt(4 * math.log(1e5))
    by_hand = order / 4 + math.log(1e5) / (order - 1)
    assert by_hand == pytest.approx(3.643, abs=1e-3)
    assert exact_epsilon(2 / math.sqrt(2), 1e-5) <= gaussian_epsilon(4.0, 2, 1e-5) <= by_hand


def test_gaussian_epsilon_falls_with_noise_and_grows_with_releases_and_with_a_smaller_delta() -> None:
    base = gaussian_epsilon(4.0, 10, 1e-5)
    assert gaussian_epsilon(8.0, 10, 1e-5) < base < gaussian_epsilon(4.0, 20, 1e-5)
    assert gaussian_epsilon(4.0, 10, 1e-6) > base


def test_no_noise_guarantees_nothing_and_no_release_tells_nothing() -> None:
    assert gaussian_epsilon(0.0, 1, 1e-5) == noisy_votes_epsilon(0.0, 1, 1e-5) == math.inf
    assert gaussian_epsilon(0.0, 0, 1e-5) == noisy_votes_epsilon(0.0, 0, 1e-5) == 0


@pytest.mark.parametrize(("noise", "releases", "delta"), [(-1.0, 1, 0.1), (1.0, -1, 0.1), (1.0, 1, 0.0), (1.0, 1, 1.0)])
def test_accounting_refuses_what_has_no_meaning(noise: float, releases: int, delta: float) -> None:
    with pytest.raises(ValueError, match="must be at least 0"):
        gaussian_epsilon(noise, releases, delta)


def test_votes_without_noise_go_to_the_plurality_and_abstentions_count_for_nobody() -> None:
    votes = torch.tensor([[1, -1, 2], [1, -1, 0], [0, 1, 2], [2, -1, -1]])
    assert noisy_votes(votes, 3, scale=0.0, rng=rng()).tolist() == [1, 1, 2]


def test_votes_drowned_in_noise_are_random_and_a_clear_majority_is_not() -> None:
    votes = torch.full((10, 3000), 2)
    drowned = noisy_votes(votes, 3, scale=1e6, rng=rng())
    assert (drowned.bincount(minlength=3) / 3000 - 1 / 3).abs().max() < 0.04
    assert (noisy_votes(votes, 3, scale=1.0, rng=rng()) == 2).all()


def test_votes_do_not_depend_on_the_order_of_the_voters() -> None:
    votes = torch.randint(5, (9, 50), generator=rng())
    assert torch.equal(noisy_votes(votes, 5, scale=1.0, rng=rng()), noisy_votes(votes.flip(0), 5, scale=1.0, rng=rng()))


@pytest.mark.parametrize("vote", [-2, 3])
def test_a_vote_that_is_no_class_is_refused(vote: int) -> None:
    with pytest.raises(InputError, match=r"votes lie in .*: write 0 \.\. 2, or -1 to abstain"):
        noisy_votes(torch.tensor([[vote, 0]]), 3, scale=1.0, rng=rng())


def test_one_voter_moves_two_counts_so_votes_need_the_square_root_of_two() -> None:
    exact = exact_epsilon(40 / math.sqrt(2) / math.sqrt(100), 1e-5)
    assert exact <= noisy_votes_epsilon(40.0, 100, 1e-5) <= 1.15 * exact


@pytest.mark.parametrize("replacement", [False, True])
def test_a_subsample_has_positions_of_the_data_and_repeats_with_its_seed(replacement: bool) -> None:
    positions = subsample_once(100, 60, rng(), replacement=replacement)
    assert positions.shape == (60,)
    assert 0 <= positions.min() <= positions.max() < 100
    assert (len(positions.unique()) == 60) is not replacement
    assert torch.equal(positions, subsample_once(100, 60, rng(), replacement=replacement))


@pytest.mark.parametrize("k", [0, 11])
def test_a_subsample_that_cannot_be_drawn_is_refused(k: int) -> None:
    with pytest.raises(InputError, match=f"a subsample of {k} of a client's 10 samples is impossible: take 1 to 10"):
        subsample_once(10, k, rng())


def test_the_guarantee_of_the_paper() -> None:
    guarantee = subsample_guarantee(50_000, 5_000)
    assert guarantee == Guarantee(pytest.approx(0.10536, abs=1e-5), 0.1, A_SAMPLE_OF_A_CLIENT)


def test_one_sample_of_one_and_replacement_by_hand() -> None:
    assert subsample_guarantee(1, 1) == Guarantee(math.log(2), 1.0, A_SAMPLE_OF_A_CLIENT)
    twice = subsample_guarantee(2, 2, replacement=True)
    assert twice.epsilon == pytest.approx(2 * math.log(1.5))
    assert twice.delta == 0.75


@pytest.mark.parametrize("replacement", [False, True])
def test_the_largest_subsample_keeps_within_epsilon_and_the_next_one_does_not(replacement: bool) -> None:
    for n in (1, 10, 333):
        for k in range(1, n):
            epsilon = subsample_guarantee(n, k, replacement=replacement).epsilon
            assert largest_subsample(n, epsilon, replacement=replacement) == k
            assert largest_subsample(n, 0.999 * epsilon, replacement=replacement) < k


def test_the_largest_subsample_is_at_most_everything_and_may_be_nothing() -> None:
    assert largest_subsample(10, 100.0) == 10
    assert largest_subsample(10, 0.01) == 0
