"""The loss of teachers that know some classes each, against a loop, values by hand and the target that it replaces."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fedkd.losses import kd_loss, unify_loss

K, B, C = 3, 4, 5
KNOWN = torch.tensor([[True, True, False, False, True], [False, True, True, True, False], [False, False, True, False, False]])


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHERS = rows(0, B, C), rows(1, K, B, C)


@pytest.mark.recomputed("unify_loss", by="formula")
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_equals_the_definition(temperature: float) -> None:
    def softmax(logits: Tensor, classes: list[int]) -> dict[int, float]:
        powers = {c: math.exp(logits[c].item() / temperature) for c in classes}
        return {c: power / sum(powers.values()) for c, power in powers.items()}

    total = 0.0
    for b in range(B):
        for k in range(K):
            classes = KNOWN[k].nonzero().flatten().tolist()
            p, q = softmax(TEACHERS[k, b], classes), softmax(STUDENT[b], classes)
            total += sum(p[c] * math.log(p[c] / q[c]) for c in classes)
    expected = temperature**2 * total / B
    assert unify_loss(STUDENT, TEACHERS, KNOWN, temperature=temperature).item() == pytest.approx(expected, abs=1e-12)


def test_a_teacher_of_all_classes_is_plain_distillation_and_teachers_are_summed() -> None:
    everything = torch.ones(K, C, dtype=torch.bool)
    each = [kd_loss(STUDENT, teacher, temperature=2.0) for teacher in TEACHERS]
    torch.testing.assert_close(unify_loss(STUDENT, TEACHERS[0], everything[0], temperature=2.0), each[0])
    torch.testing.assert_close(unify_loss(STUDENT, TEACHERS, everything, temperature=2.0), torch.stack(each).sum())


def test_is_zero_where_the_student_agrees_on_the_classes_that_each_teacher_knows() -> None:
    teachers = STUDENT + torch.tensor([[[1.0]], [[-2.0]], [[5.0]]])
    teachers[~KNOWN[:, None].expand(-1, B, -1)] = math.nan  # never read
    assert unify_loss(STUDENT, teachers, KNOWN).item() == pytest.approx(0, abs=1e-12)


def test_classes_that_a_teacher_does_not_know_get_no_gradient_from_it() -> None:
    student = STUDENT.clone().requires_grad_()
    unify_loss(student, TEACHERS[0], KNOWN[0]).backward()
    assert student.grad is not None
    assert not student.grad[:, ~KNOWN[0]].any()
    assert student.grad[:, KNOWN[0]].all()


def test_gradcheck() -> None:
    assert gradcheck(lambda x: unify_loss(x, TEACHERS, KNOWN, temperature=2.0), [STUDENT.clone().requires_grad_()])


def test_the_gradient_vanishes_at_the_joint_distribution_that_teachers_are_restrictions_of() -> None:
    student = rows(2, B, C).requires_grad_()
    joint = student.detach().log_softmax(1)
    unify_loss(student, joint.expand(K, -1, -1), KNOWN).backward()
    assert student.grad is not None
    assert student.grad.abs().amax() < 1e-12


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_is_finite_where_softmaxes_underflow(temperature: float) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = unify_loss(student, torch.tensor([[-1e4, 1e4, 5.0]]), torch.tensor([True, True, False]), temperature=temperature)
    assert loss.item() == pytest.approx(2e4 * temperature)
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_shapes_that_do_not_fit_and_teachers_without_a_class_are_refused() -> None:
    for teacher, known in ((TEACHERS, KNOWN[0]), (TEACHERS[0], KNOWN), (TEACHERS[:, :2], KNOWN), (TEACHERS, KNOWN[:, :2])):
        with pytest.raises(ValueError, match=r"unify_loss: the shapes .* do not fit"):
            unify_loss(STUDENT, teacher, known)
    with pytest.raises(ValueError, match="unify_loss: a teacher knows no class"):
        unify_loss(STUDENT, TEACHERS[0], torch.zeros(C, dtype=torch.bool))
