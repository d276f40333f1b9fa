"""KDCL's targets that are picked by the label, against values by hand, search and the conditions of optimality."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from fedkd.targets import linear, linear_weights, lowest_loss, min_logit

K, B, C = 3, 6, 4
LABELS = torch.tensor([0, 3, 2, 2, 1, 0])


def random_logits(seed: int, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


LOGITS = random_logits(0, K, B, C)


def cross_entropy(logits: list[float], label: int) -> float:
    return math.log(sum(math.exp(z - logits[label]) for z in logits))


def losses(logits: Tensor) -> list[float]:
    return [cross_entropy(row, label) for row, label in zip(logits.tolist(), LABELS.tolist(), strict=True)]


@pytest.mark.recomputed("lowest_loss", by="formula")
def test_lowest_loss_is_each_samples_best_teacher() -> None:
    target = lowest_loss(LOGITS, LABELS)
    assert target.kind == "logits"
    for b, label in enumerate(LABELS.tolist()):
        rows = LOGITS[:, b].tolist()
        assert target.values[b].tolist() == min(rows, key=lambda row: cross_entropy(row, label))


def test_of_equal_losses_the_first_teacher_is_taken() -> None:
    logits = torch.tensor([[[1.0, 0.0, 2.0]], [[1.0, 2.0, 0.0]]])
    assert lowest_loss(logits, torch.tensor([0])).values.tolist() == [[1.0, 0.0, 2.0]]


@pytest.mark.recomputed("min_logit", by="formula")
def test_min_logit_has_the_lowest_loss_of_all_that_shifted_logits_can_be_put_together_to() -> None:
    target = min_logit(LOGITS, LABELS)
    assert target.kind == "logits"
    for b, label in enumerate(LABELS.tolist()):
        shifted = [[z - row[label] for z in row] for row in LOGITS[:, b].tolist()]
        best = min(product(*zip(*shifted, strict=True)), key=lambda row: cross_entropy(list(row), label))
        assert target.values[b].tolist() == pytest.approx(best)


def test_linear_is_no_worse_than_the_best_teacher_and_min_logit_no_worse_than_linear() -> None:
    best, combined, least = (losses(rule(LOGITS, LABELS).values) for rule in (lowest_loss, linear, min_logit))
    for b in range(B):
        assert best[b] + 1e-9 >= combined[b] >= least[b] - 1e-9


@pytest.mark.recomputed("linear", by="formula")
def test_linear_finds_the_best_of_a_grid_of_two_teachers() -> None:
    pair = LOGITS[:2]
    found = losses(linear(pair, LABELS).values)
    steps = [step / 1000 for step in range(1001)]
    for b, label in enumerate(LABELS.tolist()):
        one, other = pair[:, b]
        grid = min(cross_entropy((w * one + (1 - w) * other).tolist(), label) for w in steps)
        assert grid - 1e-4 <= found[b] <= grid + 1e-9


@pytest.mark.recomputed("linear_weights", by="formula")
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 100.0, 1e4])
@pytest.mark.parametrize("teachers", [2, 5, 10])
def test_linear_weights_are_optimal(teachers: int, scale: float) -> None:
    """Where a teacher has a share, the gradient is the least of all teachers', up to 1e-9 of the logits' scale."""
    logits = scale * random_logits(1, teachers, 20, C)
    labels = torch.randint(C, (20,), generator=torch.Generator().manual_seed(2))
    weights = linear_weights(logits, labels)
    torch.testing.assert_close(weights.sum(0), torch.ones(20, dtype=torch.float64))
    assert (weights >= 0).all()
    combined = (weights[..., None] * logits).sum(0)
    slopes = combined.softmax(1) - torch.nn.functional.one_hot(labels, C)  # of the cross-entropy in the combined logits
    gradient = (logits * slopes).sum(2)  # (K, B)
    gap = (weights * gradient).sum(0) - gradient.amin(0)
    assert gap.amax() <= 1e-9 * max(1.0, logits.abs().amax().item() * 2)


@pytest.mark.recomputed("linear_weights", by="hand")
def test_linear_takes_the_middle_of_two_teachers_that_make_up_for_each_other() -> None:
    logits = torch.tensor([[[0.0, 1.0, -3.0]], [[0.0, -3.0, 1.0]], [[0.0, 9.0, 9.0]]])
    weights = linear_weights(logits, torch.tensor([0]))
    torch.testing.assert_close(weights, torch.tensor([[0.5], [0.5], [0.0]]))


def test_a_sample_does_not_depend_on_the_others() -> None:
    alone = torch.cat([linear(LOGITS[:, [b]], LABELS[[b]]).values for b in range(B)])
    torch.testing.assert_close(linear(LOGITS, LABELS).values, alone, rtol=0, atol=1e-7)
