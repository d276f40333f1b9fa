"""CompRess' loss, with one queue and with two, against the definition in loops and values by hand."""

import math

import pytest
import torch
from torch import Tensor

from fedkd.losses import compress_loss

B, D, Q = 6, 4, 5


def rows(seed: int, count: int = B, width: int = D) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def relations(row: Tensor, anchors: Tensor, temperature: float) -> list[float]:
    scores = [math.exp(float(row @ a / (row.norm() * a.norm())) / temperature) for a in anchors]
    return [score / sum(scores) for score in scores]


def definition(student: Tensor, teacher: Tensor, own: Tensor, queue: Tensor, temperature: float) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        target, predicted = relations(t, queue, temperature), relations(s, own, temperature)
        total += sum(p * math.log(p / r) for p, r in zip(target, predicted, strict=True))
    return total / len(student)


@pytest.mark.recomputed("compress_loss", by="formula")
@pytest.mark.parametrize("temperature", [0.04, 0.02, 1.0])
def test_one_queue_equals_the_definition(temperature: float) -> None:
    student, teacher, queue = rows(0), rows(1), rows(2, Q)
    loss = compress_loss(student, teacher, queue, temperature=temperature)
    assert loss.item() == pytest.approx(definition(student, teacher, queue, queue, temperature), rel=1e-9)


@pytest.mark.recomputed("compress_loss", by="formula")
def test_two_queues_equal_the_definition_and_need_no_common_width() -> None:
    student, teacher, queue, own = rows(0), rows(1, width=7), rows(2, Q, 7), rows(3, Q)
    loss = compress_loss(student, teacher, queue, student_queue=own)
    assert loss.item() == pytest.approx(definition(student, teacher, own, queue, 0.04), rel=1e-9)


def test_a_student_that_relates_as_the_teacher_does_has_no_loss_whatever_its_space() -> None:
    """A rotation keeps all cosines: two queues do not see it, one queue does."""
    teacher, queue = rows(1), rows(2, Q)
    rotation = torch.linalg.qr(rows(4, D)).Q
    student, own = 3 * teacher @ rotation, queue @ rotation
    assert compress_loss(student, teacher, queue, student_queue=own).item() == pytest.approx(0, abs=1e-12)
    assert compress_loss(student, teacher, queue).item() > 0.1
    assert compress_loss(teacher, teacher, queue).item() == 0


def test_the_gradient_is_the_students_alone_and_right() -> None:
    student, teacher, queue, own = (tensor.requires_grad_() for tensor in (rows(0), rows(1), rows(2, Q), rows(3, Q)))
    for loss in (
        lambda student: compress_loss(student, teacher, queue, temperature=0.5),
        lambda student: compress_loss(student, teacher, queue, student_queue=own, temperature=0.5),
    ):
        assert torch.autograd.gradcheck(loss, (student,))
        loss(student).backward()
    assert student.grad is not None
    assert (teacher.grad, queue.grad, own.grad) == (None, None, None)


def test_an_empty_queue_tells_nothing() -> None:
    assert compress_loss(rows(0), rows(1), rows(2, 0)).item() == 0


def test_it_is_finite_where_the_teacher_is_certain() -> None:
    """At 0.001 the softmax of opposite anchors underflows in float32; 0 log 0 must not be NaN."""
    queue = torch.eye(2)[[0, 0, 1]] * torch.tensor([[1.0], [-1.0], [1.0]])
    student = torch.tensor([[-1.0, 0.5]], requires_grad=True)
    loss = compress_loss(student, torch.tensor([[1.0, 0.0]]), queue, temperature=1e-3)
    assert loss.isfinite()
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"compress_loss: teacher is \(5, 4\); expected \(6, T\)"):
        compress_loss(rows(0), rows(1)[:5], rows(2, Q))
    with pytest.raises(ValueError, match=r"compress_loss: queue is \(5, 7\); expected \(Q, 4\)"):
        compress_loss(rows(0), rows(1), rows(2, Q, 7))
    with pytest.raises(ValueError, match=r"compress_loss: queue is \(5, 7\); expected \(5, 4\)"):
        compress_loss(rows(0), rows(1, width=7), rows(2, Q, 7))
    with pytest.raises(ValueError, match=r"compress_loss: student_queue is \(4, 4\); expected \(5, 4\)"):
        compress_loss(rows(0), rows(1), rows(2, Q), student_queue=rows(3, 4))
