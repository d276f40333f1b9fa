"""Votes of teachers on which of two samples lies nearer to a third: by hand."""

import pytest
import torch

from fedkd.losses import draw_triplets, relation_vote_loss

EAST, NORTH, WEST, SOUTH = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]
TRIPLET = torch.tensor([[0, 1, 2]])
NEAR = torch.tensor([EAST, NORTH, WEST])  # squared distances of the first to the others: 2 and 4
FAR = torch.tensor([EAST, WEST, NORTH])


@pytest.mark.recomputed("relation_vote_loss", by="hand")
def test_the_majority_decides_whatever_the_teachers_widths_and_scales() -> None:
    wide = torch.cat([7.0 * NEAR, torch.zeros(3, 3)], dim=1)  # (3, 5)
    two_to_one = relation_vote_loss(FAR, [NEAR, wide, FAR], TRIPLET)
    assert two_to_one.item() == pytest.approx(0.3 + 4 - 2)
    one_to_two = relation_vote_loss(FAR, [NEAR, FAR, FAR], TRIPLET)
    assert one_to_two.item() == 0.0  # 0.3 + 2 - 4 < 0: the student has it right, by more than the margin


def test_a_tie_teaches_nothing_and_does_not_count() -> None:
    student = FAR.clone().requires_grad_()
    loss = relation_vote_loss(student, [NEAR, FAR], TRIPLET)
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None and not student.grad.any()
    north_is_as_far_as_south = torch.tensor([EAST, NORTH, SOUTH])
    both = torch.tensor([[0, 1, 2], [0, 2, 1]])
    assert relation_vote_loss(FAR, [north_is_as_far_as_south], both).item() == 0.0


def test_without_a_right_order_the_loss_is_the_margin() -> None:
    same = torch.ones(3, 4)
    assert relation_vote_loss(same, [NEAR], TRIPLET, margin=0.7).item() == pytest.approx(0.7)


def test_gradient_is_that_of_finite_differences() -> None:
    rng = torch.Generator().manual_seed(0)
    student = torch.randn(5, 3, generator=rng, dtype=torch.float64).requires_grad_()
    teachers = [torch.randn(5, width, generator=rng, dtype=torch.float64) for width in (2, 4, 3)]
    triplets = draw_triplets(5, rng)
    assert torch.autograd.gradcheck(lambda rows: relation_vote_loss(rows, teachers, triplets, margin=5.0), student)


@pytest.mark.parametrize("samples", [3, 4, 50])
def test_triplets_are_of_three_different_samples_and_every_sample_is_first_once(samples: int) -> None:
    triplets = draw_triplets(samples, torch.Generator().manual_seed(1))
    assert triplets[:, 0].tolist() == list(range(samples))
    assert all(len(set(row)) == 3 for row in triplets.tolist())
    assert triplets.min() >= 0 and triplets.max() < samples


def test_every_other_pair_is_drawn_equally_often() -> None:
    rng = torch.Generator().manual_seed(2)
    drawn = torch.cat([draw_triplets(4, rng)[:1, 1:] for _ in range(1200)])
    counts = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16).view(4, 4)
    assert counts[1:, 1:].sum() == 1200 and not counts[1:, 1:].diagonal().any()
    assert (counts[1:, 1:] + 200 * torch.eye(3) - 200).abs().max() < 60  # six pairs, 200 each, standard deviation 13


@pytest.mark.parametrize(
    ("teachers", "triplets", "what"),
    [([], TRIPLET, "no teachers"), ([torch.zeros(2, 2)], TRIPLET, "teacher 0"), ([NEAR], torch.zeros(1, 2).long(), "triplets")],
)
def test_says_what_does_not_fit(teachers: list[torch.Tensor], triplets: torch.Tensor, what: str) -> None:
    with pytest.raises(ValueError, match=f"relation_vote_loss: .*{what}"):
        relation_vote_loss(NEAR, teachers, triplets)
