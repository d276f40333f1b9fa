"""SEED's loss against the definition in loops, values by hand and the entropy of its target."""

import math

import pytest
import torch
from torch import Tensor

from fedkd.losses import seed_loss

B, D = 6, 4


def rows(seed: int, count: int = B) -> Tensor:
    return torch.randn(count, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y / (x.norm() * y.norm()))


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


@pytest.mark.recomputed("seed_loss", by="formula")
@pytest.mark.parametrize("teacher_temperature", [0.1, 1e-2])
def test_seed_equals_the_definition(teacher_temperature: float) -> None:
    student, teacher, queue = rows(0), rows(1), rows(2, 5)
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        candidates = [t, *queue]
        target = softmax([cosine(t, c) / teacher_temperature for c in candidates])
        predicted = softmax([cosine(s, c) / 0.2 for c in candidates])
        expected -= sum(p * math.log(q) for p, q in zip(target, predicted, strict=True)) / B
    loss = seed_loss(student, teacher, queue, teacher_temperature=teacher_temperature)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_seed_at_the_official_temperature_says_which_is_the_own_teacher() -> None:
    """The target is one-hot, so the loss is the cross-entropy of the student's own candidate."""
    student, teacher, queue = torch.eye(3)[[1]], torch.eye(3)[[0]], torch.eye(3)[[1, 2]]
    loss = seed_loss(student, teacher, queue)  # the student's cosines: own 0, queue 1 and 0, over 0.2
    assert loss.item() == pytest.approx(math.log(2 + math.exp(5)))
    assert seed_loss(teacher, teacher, queue).item() == pytest.approx(math.log(1 + 2 * math.exp(-5)))


@pytest.mark.recomputed("seed_loss", by="formula")
def test_seed_with_the_teachers_temperature_is_the_entropy_for_a_student_that_agrees() -> None:
    student, queue = rows(0), rows(2, 5).requires_grad_()
    teacher = (2 * student).requires_grad_()  # the same directions
    student = student.requires_grad_()
    loss = seed_loss(student, teacher, queue, temperature=0.2, teacher_temperature=0.2)
    cosines = torch.cat([torch.ones(B, 1), torch.cosine_similarity(student[:, None], queue[None], dim=2)], dim=1)
    target = (cosines / 0.2).softmax(1)
    torch.testing.assert_close(loss, -(target * target.log()).sum(1).mean())
    loss.backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert queue.grad is None


def test_seed_of_an_empty_queue_is_zero() -> None:
    assert seed_loss(rows(0), rows(1), rows(2, 0)).item() == 0


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"seed_loss: queue is \(3, 2\); expected \(Q, 4\)"):
        seed_loss(rows(0), rows(1), torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"seed_loss: teacher is \(5, 4\); expected \(6, 4\)"):
        seed_loss(rows(0), rows(1)[:5], rows(2))
