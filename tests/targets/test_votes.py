"""PATE's votes: counted by hand, and noise of the distribution that it claims."""

import math

import pytest
import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.targets import confident_vote, consistent, vote, votes


def ballots(*classes: int, of: int = 3) -> Tensor:
    """Logits (K, 1, C) of teachers who vote so."""
    return torch.nn.functional.one_hot(torch.tensor(classes), of)[:, None].float()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.recomputed("votes", by="hand")
def test_votes_are_counted_by_sample() -> None:
    logits = torch.stack([torch.tensor([[0.0, 2.0, 1.0], [5.0, 4.0, 3.0]]), torch.tensor([[-1.0, 0.0, -2.0], [0.0, 0.0, 1.0]])])
    assert votes(logits).tolist() == [[0, 2, 0], [1, 0, 1]]


@pytest.mark.recomputed("vote", by="hand")
def test_without_noise_the_majority_wins_however_sure_the_others_are() -> None:
    logits = ballots(1, 1, 2)
    logits[2] *= 1e4
    target = vote(logits)
    assert target.kind == "probabilities"
    assert target.values.tolist() == [[0, 1, 0]]


def test_of_equal_counts_the_first_class_wins_in_whatever_order_teachers_vote() -> None:
    for order in ((2, 0, 1), (1, 2, 0), (0, 1, 2)):
        assert vote(ballots(*order)).values.tolist() == [[1, 0, 0]]


def test_noise_is_drawn_from_the_generator_and_no_other() -> None:
    many = ballots(0, 1).expand(2, 100, 3)
    before = torch.get_rng_state()
    first, again, other = (vote(many, noise=2.0, rng=rng(seed)).values for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.recomputed("vote", by="formula")
@pytest.mark.parametrize(
    ("distribution", "turned"),
    [
        # The difference of two Laplace(s) is above d with probability (1 + d / 2s) exp(-d / s) / 2,
        ("laplace", (1 + 1 / 4) * math.exp(-1 / 2) / 2),
        # and that of two N(0, s^2) is N(0, 2 s^2).
        ("gaussian", math.erfc(1 / 2 / math.sqrt(2) / math.sqrt(2)) / 2),
    ],
)
def test_noise_turns_a_majority_of_one_as_often_as_it_should(distribution: str, turned: float) -> None:
    many = ballots(0, 0, 1, of=2).expand(3, 40_000, 2)
    share = vote(many, noise=2.0, distribution=distribution, rng=rng()).values[:, 1].mean().item()
    assert share == pytest.approx(turned, abs=4 * math.sqrt(turned * (1 - turned) / 40_000))


@pytest.mark.recomputed("confident_vote", by="hand")
def test_only_samples_on_which_teachers_agree_are_confident() -> None:
    logits = torch.cat([ballots(0, 0, 0, 0), ballots(0, 1, 1, 2), ballots(0, 0, 0, 2)], dim=1)
    target, confident = confident_vote(logits, threshold=3, threshold_noise=0.0, noise=0.0)
    assert confident.tolist() == [True, False, True]
    assert target.values.tolist() == vote(logits).values.tolist()


@pytest.mark.recomputed("confident_vote", by="formula")
def test_the_noise_of_the_threshold_is_gaussian() -> None:
    many = ballots(0, 0).expand(2, 40_000, 3)
    _, confident = confident_vote(many, threshold=4, threshold_noise=2.0, noise=0.0, rng=rng())
    expected = math.erfc(1 / math.sqrt(2)) / 2  # one standard deviation above
    assert confident.float().mean().item() == pytest.approx(expected, abs=4 * math.sqrt(expected / 40_000))


def test_noise_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="vote: noise needs an rng"):
        vote(ballots(0), noise=1.0)
    with pytest.raises(ValueError, match=r"vote: noise -1.0 is negative"):
        vote(ballots(0), noise=-1.0, rng=rng())
    with pytest.raises(InputError, match="vote: distribution 'laplacian': did you mean 'laplace'"):
        vote(ballots(0), distribution="laplacian")


@pytest.mark.recomputed("consistent", by="hand")
def test_votes_count_where_all_teachers_of_a_party_agree() -> None:
    """Parties of two: of the first both name 1, of the second one names 2 and one 0; the third, of two, names 2."""
    logits = ballots(1, 1, 2, 0, 2, 2)
    counts = consistent(logits, 2)
    assert counts[:, 0].tolist() == [True, True, False, False, True, True]
    assert votes(logits, counts).tolist() == [[0, 2, 2]]
    assert vote(logits).probabilities().argmax(-1).item() == 2  # three votes, were all to count
    assert vote(logits, counts=counts).probabilities().argmax(-1).item() == 1
    assert confident_vote(logits, threshold=3, threshold_noise=0.0, noise=0.0, counts=counts)[1].tolist() == [False]


def test_counts_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"votes: counts are \(2, 1\); expected \(3, 1\)"):
        votes(ballots(0, 1, 2), torch.ones(2, 1, dtype=torch.bool))


def test_the_test_for_confidence_takes_laplace_noise_too() -> None:
    """P(Laplace of scale 2 >= 1) is exp(-1/2) / 2."""
    many = ballots(1, 1, 1).expand(3, 20_000, 3)
    how = {"threshold": 4, "threshold_noise": 2.0, "noise": 0.0, "distribution": "laplace"}
    _, confident = confident_vote(many, **how, rng=rng())  # type: ignore[arg-type]
    assert confident.double().mean().item() == pytest.approx(math.exp(-0.5) / 2, abs=0.01)


def test_of_equal_counts_the_first_class_wins_or_the_likeliest_and_no_other_count_turns() -> None:
    logits = ballots(0, 2) * torch.tensor([1.0, 5.0])[:, None, None]  # the second is surer
    assert vote(logits).probabilities().argmax(-1).item() == 0
    assert vote(logits, ties="likeliest").probabilities().argmax(-1).item() == 2
    sure = ballots(0, 0, 2) * torch.tensor([1.0, 1.0, 1e4])[:, None, None]
    assert vote(sure, ties="likeliest").probabilities().argmax(-1).item() == 0
    with pytest.raises(InputError, match="vote: ties"):
        vote(logits, ties="last")
