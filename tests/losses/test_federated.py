"""The losses that learn from other parties' knowledge, against values by hand, oracles and faults."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fedkd.losses import (
    kd_loss,
    label_masking_loss,
    logit_mae,
    logit_mse,
    majority_labels,
    model_contrastive_loss,
    not_true_loss,
    prototype_loss,
    soft_cross_entropy,
)

B, C, D = 4, 5, 3
ALL = torch.ones(C, dtype=torch.bool)


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHER = rows(0, B, C), rows(1, B, C)
LABELS = torch.tensor([0, 4, 2, 2])
FIRST_TWO = torch.tensor([True, True, False, False, False])


def test_kd_loss_is_zero_where_both_predict_alike_whatever_the_offset() -> None:
    assert kd_loss(STUDENT, STUDENT + 7).item() == pytest.approx(0, abs=1e-12)


def test_kd_loss_sums_over_classes_and_averages_over_the_batch() -> None:
    once = kd_loss(STUDENT, TEACHER)
    assert torch.isclose(kd_loss(STUDENT.repeat(3, 1), TEACHER.repeat(3, 1)), once)
    assert torch.isclose(once, torch.stack([kd_loss(s[None], t[None]) for s, t in zip(STUDENT, TEACHER, strict=True)]).mean())


def test_kd_loss_without_the_square_is_smaller_by_it() -> None:
    plain = kd_loss(STUDENT, TEACHER, temperature=3.0, squared_temperature=False)
    assert torch.isclose(kd_loss(STUDENT, TEACHER, temperature=3.0), 9 * plain)


@pytest.mark.recomputed("kd_loss", by="formula")
def test_kd_loss_gradient_is_the_difference_of_the_predictions() -> None:
    student = STUDENT.clone().requires_grad_()
    kd_loss(student, TEACHER, temperature=2.0).backward()
    assert student.grad is not None
    expected = 2.0 * ((STUDENT / 2.0).softmax(1) - (TEACHER / 2.0).softmax(1)) / B
    assert torch.allclose(student.grad, expected)


def test_kd_loss_is_finite_where_the_softmax_underflows() -> None:
    assert kd_loss(torch.tensor([[0.0, 1e4]]), torch.tensor([[1e4, 0.0]]), temperature=1.0).item() == 1e4


def test_soft_cross_entropy_of_a_one_hot_target_is_cross_entropy() -> None:
    one_hot = torch.nn.functional.one_hot(LABELS, C).double()
    assert torch.isclose(soft_cross_entropy(STUDENT, one_hot), torch.nn.functional.cross_entropy(STUDENT, LABELS))


@pytest.mark.recomputed("soft_cross_entropy", by="formula")
def test_soft_cross_entropy_is_kd_plus_the_entropy_of_the_target() -> None:
    target = TEACHER.softmax(1)
    entropy = -(target * target.log()).sum(1).mean()
    assert torch.isclose(soft_cross_entropy(STUDENT, target), kd_loss(STUDENT, TEACHER, temperature=1.0) + entropy)


def test_soft_cross_entropy_counts_a_row_of_zeros_in_the_mean() -> None:
    target = TEACHER.softmax(1)
    target[0] = 0
    assert torch.isclose(soft_cross_entropy(STUDENT, target), soft_cross_entropy(STUDENT[1:], target[1:]) * 3 / 4)


@pytest.mark.recomputed("logit_mae", "logit_mse", by="hand")
def test_logit_distances_see_the_offset_that_a_softmax_does_not() -> None:
    assert logit_mae(STUDENT, STUDENT - 2).item() == pytest.approx(2)
    assert logit_mse(STUDENT, STUDENT - 2).item() == pytest.approx(4)


@pytest.mark.parametrize("moved", [0, 1])
def test_not_true_loss_ignores_the_true_class(moved: int) -> None:
    pair = [STUDENT.clone(), TEACHER.clone()]
    pair[moved][torch.arange(B), LABELS] += 100
    assert not_true_loss(*pair, LABELS).item() == not_true_loss(STUDENT, TEACHER, LABELS).item()


def test_not_true_loss_teaches_the_true_class_nothing() -> None:
    student = STUDENT.clone().requires_grad_()
    not_true_loss(student, TEACHER, LABELS, temperature=3.0).backward()
    assert student.grad is not None
    assert student.grad.count_nonzero(1).tolist() == [C - 1] * B
    assert not student.grad[torch.arange(B), LABELS].any()


@pytest.mark.recomputed("not_true_loss", by="formula")
def test_not_true_loss_is_the_distillation_of_logits_without_the_true_class() -> None:
    fourth = torch.full((B,), C - 1)
    expected = kd_loss(STUDENT[:, :-1], TEACHER[:, :-1], temperature=3.0)
    assert torch.isclose(not_true_loss(STUDENT, TEACHER, fourth, temperature=3.0), expected)


def test_not_true_loss_of_two_classes_is_zero() -> None:
    assert not_true_loss(STUDENT[:, :2], TEACHER[:, :2], LABELS.clamp(max=1)).item() == 0


def test_not_true_loss_refuses_the_label_of_an_unlabelled_sample() -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        not_true_loss(STUDENT, TEACHER, torch.tensor([0, 1, 2, -1]))


def test_label_masking_loss_without_a_majority_is_the_not_true_loss() -> None:
    expected = not_true_loss(STUDENT, TEACHER, LABELS, temperature=3.0)
    assert torch.isclose(label_masking_loss(STUDENT, TEACHER, LABELS, ~ALL, temperature=3.0), expected)


def test_label_masking_loss_ignores_what_the_teacher_says_of_the_majority_and_the_label() -> None:
    once, teacher = label_masking_loss(STUDENT, TEACHER, LABELS, FIRST_TWO), TEACHER.clone()
    teacher[:, :2] += 100
    teacher[torch.arange(B), LABELS] -= 50
    assert label_masking_loss(STUDENT, teacher, LABELS, FIRST_TWO).item() == once.item()


def test_label_masking_loss_pushes_wrong_classes_of_the_majority_down_and_leaves_the_label() -> None:
    student = STUDENT.clone().requires_grad_()
    label_masking_loss(student, TEACHER, LABELS, FIRST_TWO, temperature=2.0).backward()
    assert student.grad is not None
    assert not student.grad[torch.arange(B), LABELS].any()
    assert (student.grad[1:, :2] > 0).all()
    assert student.grad[0, 1] > 0


@pytest.mark.recomputed("label_masking_loss", by="hand")
def test_label_masking_loss_of_a_teacher_alike_is_taught_each_class_left_as_much() -> None:
    """Of the label 4 and the majority 0, 1 the classes 2 and 3 are left."""
    said = STUDENT[1, :4].log_softmax(0)  # without the label
    expected = -(said[2] + said[3]) / 2 - math.log(2)
    value = label_masking_loss(STUDENT[1:2], torch.zeros(1, C).double(), LABELS[1:2], FIRST_TWO)
    assert torch.isclose(value, expected)


def test_label_masking_loss_of_a_sample_that_leaves_no_class_is_zero_and_teaches_nothing() -> None:
    student, all_but_two = STUDENT.clone().requires_grad_(), torch.tensor([True, True, False, True, True])
    label_masking_loss(student, TEACHER, LABELS, all_but_two).backward()
    assert student.grad is not None
    assert student.grad.any(1).tolist() == [True, True, False, False]
    alone = label_masking_loss(STUDENT[:2], TEACHER[:2], LABELS[:2], all_but_two)
    assert torch.isclose(label_masking_loss(STUDENT, TEACHER, LABELS, all_but_two), alone / 2)


def test_label_masking_loss_refuses_a_majority_of_other_classes() -> None:
    with pytest.raises(ValueError, match=r"the majority is \(C,\), not \(4,\), and logits \(4, 5\)"):
        label_masking_loss(STUDENT, TEACHER, LABELS, FIRST_TWO[:4])


@pytest.mark.recomputed("majority_labels", by="hand")
def test_the_majority_has_more_samples_than_the_mean_of_all_classes() -> None:
    assert majority_labels(torch.tensor([6, 0, 1, 0])).tolist() == [True, False, False, False]
    assert not majority_labels(torch.tensor([3, 3, 3])).any()
    assert not majority_labels(torch.zeros(3, dtype=torch.int64)).any()


@pytest.mark.recomputed("model_contrastive_loss", by="hand")
def test_model_contrastive_loss_of_equal_teachers_is_log_2_and_teaches_nothing() -> None:
    projected, teacher = rows(0, B, D).requires_grad_(), rows(1, B, D)
    loss = model_contrastive_loss(projected, teacher, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert projected.grad is not None
    assert projected.grad.abs().max() < 1e-15


def test_model_contrastive_loss_sees_directions_only() -> None:
    z, near, far = rows(0, B, D), rows(1, B, D), rows(2, B, D)
    assert torch.isclose(model_contrastive_loss(5 * z, 0.1 * near, 3 * far), model_contrastive_loss(z, near, far))


def test_model_contrastive_loss_lies_between_its_bounds() -> None:
    z = rows(0, B, D)
    assert model_contrastive_loss(z, z, -z).item() == pytest.approx(math.log1p(math.exp(-4)))
    assert model_contrastive_loss(z, -z, z).item() == pytest.approx(math.log1p(math.exp(4)))


@pytest.mark.recomputed("prototype_loss", by="hand")
def test_prototype_loss_is_the_mean_over_elements_and_taught_samples() -> None:
    features, prototypes = torch.zeros(3, 2), torch.tensor([[1.0, 1.0], [3.0, 1.0], [9.0, 9.0]])
    loss = prototype_loss(features, prototypes, torch.tensor([0, 1, 2]), torch.tensor([True, True, False]))
    assert loss.item() == (1 + 1 + 9 + 1) / 4


def test_prototype_loss_is_zero_at_the_prototypes() -> None:
    prototypes = rows(0, C, D)
    assert prototype_loss(prototypes[LABELS], prototypes, LABELS, ALL).item() == 0


def test_prototype_loss_without_any_prototype_is_zero_with_a_zero_gradient() -> None:
    features = rows(0, B, D).requires_grad_()
    loss = prototype_loss(features, torch.full((C, D), torch.nan), LABELS, ~ALL)
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros(B, D))


def test_prototype_loss_reads_no_row_of_an_unknown_class() -> None:
    known = torch.tensor([True, False, True, True, True])
    poisoned = rows(0, C, D)
    poisoned[1] = torch.inf
    features = rows(1, B, D).requires_grad_()
    loss = prototype_loss(features, poisoned, torch.tensor([0, 1, 1, 4]), known)
    loss.backward()
    assert loss.isfinite()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert features.grad.any(1).tolist() == [True, False, False, True]


def test_prototype_loss_refuses_the_label_of_an_unlabelled_sample() -> None:
    with pytest.raises(IndexError):
        prototype_loss(rows(0, 1, D), rows(0, C, D), torch.tensor([-1]), ALL)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: kd_loss(x, TEACHER),
        lambda x: soft_cross_entropy(x, TEACHER.softmax(1)),
        lambda x: logit_mae(x, TEACHER),
        lambda x: logit_mse(x, TEACHER),
        lambda x: not_true_loss(x, TEACHER, LABELS),
        lambda x: label_masking_loss(x, TEACHER, LABELS, FIRST_TWO),
        lambda x: model_contrastive_loss(x, TEACHER, rows(2, B, C)),
        lambda x: prototype_loss(x, rows(2, C, C), LABELS, ALL),
    ],
)
def test_gradcheck(loss: Callable[[Tensor], Tensor]) -> None:
    assert gradcheck(loss, [STUDENT.clone().requires_grad_()])


@pytest.mark.parametrize(
    "loss",
    [
        kd_loss,
        soft_cross_entropy,
        logit_mae,
        logit_mse,
        lambda s, t: not_true_loss(s, t, LABELS),
        lambda s, t: label_masking_loss(s, t, LABELS, FIRST_TWO),
        lambda s, t: model_contrastive_loss(s, s, t),
    ],
)
def test_a_teacher_of_another_shape_is_not_broadcast(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"\(4, 5\)(, \(4, 5\))?( and|,) \(1, 5\)"):
        loss(STUDENT, TEACHER[:1])


def test_prototypes_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="features have 3 columns, prototypes 5"):
        prototype_loss(rows(0, B, D), rows(1, C, C), LABELS, ALL)
