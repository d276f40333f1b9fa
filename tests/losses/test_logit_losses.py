"""Losses on logits against values by hand, their formulas written out in plain Python, and what they must not depend on."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fedkd.base.errors import InputError
from fedkd.losses import (
    cross_entropy_loss,
    cskd_loss,
    dist_loss,
    dkd_loss,
    kd_loss,
    label_masking_loss,
    logit_standardize,
    not_true_loss,
    soft_cross_entropy,
    tfkd_reg_loss,
    wsld_loss,
)

B, C, T = 4, 5, 3.0
Row = list[float]


def rows(seed: int) -> Tensor:
    return 2 * torch.randn(B, C, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHER = rows(0), rows(1)
LABELS = torch.tensor([0, 4, 2, 2])

#: Every loss here as a function of the student's logits, the teacher's and the labels; some read less.
OF_TWO: dict[str, Callable[..., Tensor]] = {
    "kd": lambda s, t, y, **options: kd_loss(s, t, **options),
    "kd, kd_lib": lambda s, t, y, **options: kd_loss(s, t, preset="kd_lib", **options),
    "kd, textbrewer": lambda s, t, y, **options: kd_loss(s, t, preset="textbrewer", **options),
    "dkd": dkd_loss,
    "dist": lambda s, t, y, **options: dist_loss(s, t, **options),
    "wsld": wsld_loss,
    "cskd": partial(cskd_loss, weight=2.0),
}
EVERY: dict[str, Callable[..., Tensor]] = OF_TWO | {
    "soft_cross_entropy": lambda s, t, y, **options: soft_cross_entropy(s, t.softmax(1), **options),
    "tfkd_reg": lambda s, t, y, **options: tfkd_reg_loss(s, y, **options),
}


# The formulas, on lists of floats: every sum is a loop over samples or classes.


def softmax(z: Row, t: float = 1.0) -> Row:
    total = sum(math.exp(v / t) for v in z)
    return [math.exp(v / t) / total for v in z]


def kl(p: Row, q: Row) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def cross_entropy(p: Row, q: Row) -> float:
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True))


def without(z: Row, y: int) -> Row:
    return z[:y] + z[y + 1 :]


def rho(u: Row, v: Row) -> float:
    u, v = [a - sum(u) / len(u) for a in u], [b - sum(v) / len(v) for b in v]
    return sum(a * b for a, b in zip(u, v, strict=True)) / (math.hypot(*u) * math.hypot(*v) + 1e-8)


def mean(values: Row) -> float:
    return sum(values) / len(values)


def dkd(s: Row, t: Row, y: int) -> float:
    p_s, p_t = softmax(s, T), softmax(t, T)
    target = kl([p_t[y], 1 - p_t[y]], [p_s[y], 1 - p_s[y]])
    others = kl(softmax(without(t, y), T), softmax(without(s, y), T))
    return T**2 * (1.0 * target + 8.0 * others)


def dist(students: list[Row], teachers: list[Row]) -> float:
    p_s, p_t = [softmax(s, T) for s in students], [softmax(t, T) for t in teachers]
    within_samples = mean([rho(p_s[b], p_t[b]) for b in range(B)])
    within_classes = mean([rho([p[c] for p in p_s], [p[c] for p in p_t]) for c in range(C)])
    return T**2 * ((1 - within_samples) + (1 - within_classes))


def wsld(s: Row, t: Row, y: int) -> float:
    own, other = -math.log(softmax(s)[y]), -math.log(softmax(t)[y])
    weight = 1 - math.exp(-own / (other + 1e-7))
    return weight * T**2 * cross_entropy(softmax(t, T), softmax(s, T))


def tfkd(s: Row, y: int) -> float:
    made = [0.99 if c == y else 0.01 / (C - 1) for c in range(C)]
    return kl(softmax(made, T), softmax(s)) / C


def cskd(s: Row, partner: Row, y: int) -> float:
    return -math.log(softmax(s)[y]) + 2.0 * T**2 * kl(softmax(partner, T), softmax(s, T))


def by_formula(name: str) -> float:
    students, teachers, labels = STUDENT.tolist(), TEACHER.tolist(), LABELS.tolist()
    samples = list(zip(students, teachers, labels, strict=True))
    match name:
        case "kd":
            return mean([T**2 * kl(softmax(t, T), softmax(s, T)) for s, t, _ in samples])
        case "kd, kd_lib":
            pairs = [zip(softmax(s, T), softmax(t, T), strict=True) for s, t, _ in samples]
            return T**2 * mean([(a - b) ** 2 for pair in pairs for a, b in pair])
        case "kd, textbrewer":
            return mean([cross_entropy(softmax(t, T), softmax(s, T)) for s, t, _ in samples])
        case "dkd":
            return mean([dkd(*sample) for sample in samples])
        case "dist":
            return dist(students, teachers)
        case "wsld":
            return mean([wsld(*sample) for sample in samples])
        case "cskd":
            return mean([cskd(*sample) for sample in samples])
        case "soft_cross_entropy":
            return mean([T**2 * cross_entropy(softmax(t), softmax(s, T)) for s, t, _ in samples])
        case _:
            return mean([tfkd(s, y) for s, _, y in samples])


@pytest.mark.recomputed(
    "kd_loss", "dkd_loss", "dist_loss", "wsld_loss", "cskd_loss", "soft_cross_entropy", "tfkd_reg_loss", by="formula"
)
@pytest.mark.parametrize("name", EVERY)
def test_equals_its_formula(name: str) -> None:
    assert EVERY[name](STUDENT, TEACHER, LABELS, temperature=T).item() == pytest.approx(by_formula(name), rel=1e-9)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "wsld"])  # whose weight is held constant: see its own test
def test_gradcheck(name: str) -> None:
    assert gradcheck(lambda s: EVERY[name](s, TEACHER, LABELS, temperature=T), [STUDENT.clone().requires_grad_()])


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [B, 1])
def test_is_finite_where_every_softmax_underflows(name: str, dtype: torch.dtype, size: int) -> None:
    student = (1e4 * STUDENT[:size]).to(dtype).requires_grad_()
    teacher = (-1e4 * STUDENT[:size]).to(dtype)
    loss = EVERY[name](student, teacher, LABELS[:size], temperature=0.01)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_is_finite_where_the_student_knows_nothing(name: str) -> None:
    student = torch.zeros(B, C, requires_grad=True)
    loss = EVERY[name](student, TEACHER.float(), LABELS, temperature=T)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_order_of_batch_and_offset_of_logits_change_nothing(name: str) -> None:
    once = EVERY[name](STUDENT, TEACHER, LABELS, temperature=T)
    order = [2, 0, 3, 1]
    assert torch.isclose(EVERY[name](STUDENT[order], TEACHER[order], LABELS[order], temperature=T), once)
    assert torch.isclose(EVERY[name](STUDENT + 7, TEACHER - 3, LABELS, temperature=T), once)


@pytest.mark.parametrize("name", OF_TWO)
def test_a_teacher_of_another_shape_is_not_broadcast(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"^[a-z]+_loss: the shapes of student and (teacher|partner) logits.*\(4, 5\) and \(1, 5\)"
    ):
        OF_TWO[name](STUDENT, TEACHER[:1], LABELS)


@pytest.mark.parametrize(
    "loss",
    [
        partial(dkd_loss, STUDENT, TEACHER),
        partial(not_true_loss, STUDENT, TEACHER),
        lambda labels: label_masking_loss(STUDENT, TEACHER, labels, torch.arange(5) < 2),
        partial(wsld_loss, STUDENT, TEACHER),
        partial(cskd_loss, STUDENT, TEACHER),
        partial(tfkd_reg_loss, STUDENT),
    ],
)
def test_the_label_of_an_unlabelled_sample_is_refused(loss: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        loss(torch.tensor([0, 1, 2, -1]))


# kd_loss


def test_kd_loss_at_a_high_temperature_regresses_centred_logits() -> None:
    def centred(z: Tensor) -> Tensor:
        return z - z.mean(1, keepdim=True)

    limit = (centred(STUDENT) - centred(TEACHER)).square().sum(1).mean() / (2 * C)
    far, further = (abs(kd_loss(STUDENT, TEACHER, temperature=t) / limit - 1).item() for t in (1e2, 1e3))
    assert further < 1e-2
    assert further == pytest.approx(far / 10, rel=0.1)  # the rest is of order 1 / T


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kd_loss_and_soft_cross_entropy_pull_alike(temperature: float) -> None:
    """By the teacher's entropy apart, and by a gradient of T (p_s - p_t) / B both."""
    p_student, p_teacher = ((z / temperature).softmax(1) for z in (STUDENT, TEACHER))
    expected = temperature * (p_student - p_teacher) / B
    student = STUDENT.clone().requires_grad_()
    kd = kd_loss(student, TEACHER, temperature=temperature)
    soft = soft_cross_entropy(student, p_teacher, temperature=temperature)
    entropy = -(p_teacher * p_teacher.log()).sum(1).mean()
    assert torch.isclose(soft - kd, temperature**2 * entropy)
    for loss in (kd, soft):
        torch.testing.assert_close(torch.autograd.grad(loss, student)[0], expected)


@pytest.mark.recomputed("kd_loss", by="hand")
def test_kd_loss_presets_by_hand() -> None:
    student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 3.0]]).log1p() * 2  # at T = 2: (1/2, 1/2) and (1/5, 4/5)
    loss = partial(kd_loss, student, teacher, temperature=2.0)
    assert loss().item() == pytest.approx(4 * (0.2 * math.log(0.4) + 0.8 * math.log(1.6)), rel=1e-6)
    assert loss(preset="kd_lib").item() == pytest.approx(4 * 0.3**2, rel=1e-6)
    assert loss(preset="textbrewer").item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize(("preset", "by_default"), [("repdistiller", True), ("kd_lib", True), ("textbrewer", False)])
def test_kd_loss_square_of_the_temperature_is_the_presets_unless_said(preset: str, by_default: bool) -> None:
    loss = partial(kd_loss, STUDENT, TEACHER, temperature=T, preset=preset)
    assert torch.isclose(loss(squared_temperature=True), T**2 * loss(squared_temperature=False))
    assert loss().item() == loss(squared_temperature=by_default).item()


def test_kd_loss_names_the_nearest_preset() -> None:
    with pytest.raises(InputError, match=r"unknown kd_loss: preset 'kdlib': did you mean 'kd_lib'\?"):
        kd_loss(STUDENT, TEACHER, preset="kdlib")


# dkd_loss


def test_dkd_loss_is_kd_taken_apart() -> None:
    """KL(p_t || p_s) = KL(b_t || b_s) + (1 - p_t[y]) KL(n_t || n_s), sample by sample."""
    for s, t, y in zip(STUDENT.split(1), TEACHER.split(1), LABELS.split(1), strict=True):
        sureness = (t / T).softmax(1)[0, y].item()
        apart = dkd_loss(s, t, y, alpha=1.0, beta=1 - sureness, temperature=T)
        assert torch.isclose(apart, kd_loss(s, t, temperature=T))


def test_dkd_loss_second_half_is_the_not_true_loss() -> None:
    ranking = dkd_loss(STUDENT, TEACHER, LABELS, alpha=0.0, beta=8.0, temperature=T)
    assert torch.isclose(ranking, 8 * not_true_loss(STUDENT, TEACHER, LABELS, temperature=T))


def test_dkd_loss_first_half_does_not_see_the_ranking_of_wrong_classes() -> None:
    reranked = STUDENT.clone()
    reranked[0, 1:] = STUDENT[0, [4, 3, 2, 1]]  # its label is 0
    loss = partial(dkd_loss, teacher=TEACHER, labels=LABELS, beta=0.0)
    assert torch.isclose(loss(reranked), loss(STUDENT))
    assert dkd_loss(reranked, STUDENT, LABELS) > 0.1


def test_dkd_loss_is_zero_where_both_predict_alike() -> None:
    assert dkd_loss(STUDENT, STUDENT + 7, LABELS).item() == pytest.approx(0, abs=1e-12)


def test_dkd_loss_wants_a_wrong_class() -> None:
    with pytest.raises(ValueError, match=r"one class, \(4, 1\) and \(4, 1\)"):
        dkd_loss(STUDENT[:, :1], TEACHER[:, :1], torch.zeros(B, dtype=torch.int64))


# dist_loss


@pytest.mark.recomputed("dist_loss", by="hand")
def test_dist_loss_by_hand() -> None:
    up, down = torch.tensor([[0.0, 3.0], [3.0, 0.0]]).log1p(), torch.tensor([[3.0, 0.0], [0.0, 3.0]]).log1p()
    loss = partial(dist_loss, temperature=1.0)
    assert loss(up, up).item() == pytest.approx(0, abs=1e-6)
    assert loss(up, down).item() == pytest.approx(4, abs=1e-6)  # correlations of -1 in samples and in classes
    assert loss(up, down, beta=3.0, gamma=0.0).item() == pytest.approx(6, abs=1e-6)


def test_dist_loss_does_not_see_how_sure_a_prediction_is() -> None:
    softer = (0.5 * TEACHER.softmax(1) + 0.5 / C).log()  # every probability half as far from uniform
    assert dist_loss(softer, TEACHER, temperature=1.0).item() == pytest.approx(0, abs=1e-4)  # up to its 1e-8
    assert kd_loss(softer, TEACHER, temperature=1.0) > 0.05


def test_dist_loss_of_one_sample_has_nothing_to_correlate_within_classes() -> None:
    loss = partial(dist_loss, STUDENT[:1], TEACHER[:1], temperature=T)
    assert torch.isclose(loss(gamma=2.0) - loss(gamma=0.0), torch.tensor(2 * T**2).double())


# wsld_loss


def test_wsld_loss_teaches_less_where_the_student_is_already_better() -> None:
    student, labels = torch.tensor([[0.0, 5.0]]), torch.tensor([1])
    good, poor = torch.tensor([[0.0, 9.0]]), torch.tensor([[0.0, 0.0]])
    for teacher in (good, poor):
        own, other = cross_entropy_loss(student, labels), cross_entropy_loss(teacher, labels)
        weight = wsld_loss(student, teacher, labels, temperature=1.0) / soft_cross_entropy(student, teacher.softmax(1))
        assert weight.item() == pytest.approx(1 - math.exp(-own / (other + 1e-7)), rel=1e-5)
        assert (weight > 0.99) == (teacher is good)  # CE ratios of 54 and of 0.01


def test_wsld_loss_weight_gets_no_gradient() -> None:
    student, label = STUDENT[:1].clone().requires_grad_(), LABELS[:1]
    (gradient,) = torch.autograd.grad(wsld_loss(student, TEACHER[:1], label, temperature=T), student)
    kd = kd_loss(student, TEACHER[:1], temperature=T)
    weight = 1 - torch.exp(-cross_entropy_loss(STUDENT[:1], label) / (cross_entropy_loss(TEACHER[:1], label) + 1e-7))
    torch.testing.assert_close(gradient, weight * torch.autograd.grad(kd, student)[0])


def test_wsld_loss_is_finite_where_both_are_certain() -> None:
    student = torch.tensor([[0.0, 1e4]], requires_grad=True)
    loss = wsld_loss(student, student, torch.tensor([1]))  # a ratio of 0 / 1e-7: nothing to teach
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


# tfkd_reg_loss and cskd_loss


@pytest.mark.recomputed("tfkd_reg_loss", by="hand")
def test_tfkd_reg_loss_by_hand() -> None:
    """u = (0, 1) over T = 1 / log 3 is the teacher (1/4, 3/4); the mean is over both classes."""
    loss = tfkd_reg_loss(torch.zeros(1, 2), torch.tensor([1]), correct=1.0, temperature=1 / math.log(3))
    assert loss.item() == pytest.approx((0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2, rel=1e-6)


def test_tfkd_reg_loss_is_zero_at_the_made_up_teacher() -> None:
    made = torch.full((B, C), 0.01 / (C - 1), dtype=torch.float64).scatter(1, LABELS[:, None], 0.99)
    assert tfkd_reg_loss(made / 20, LABELS).item() == pytest.approx(0, abs=1e-12)


def test_tfkd_reg_loss_at_the_usual_temperature_wants_a_nearly_uniform_prediction() -> None:
    uniform = tfkd_reg_loss(torch.zeros(B, C), LABELS)
    assert uniform < 1e-3
    assert tfkd_reg_loss(5 * torch.nn.functional.one_hot(LABELS, C), LABELS) > 100 * uniform


def test_tfkd_reg_loss_of_one_class_is_zero() -> None:
    assert tfkd_reg_loss(STUDENT[:, :1], torch.zeros(B, dtype=torch.int64)).item() == 0


def test_cskd_loss_is_cross_entropy_where_the_partner_predicts_alike() -> None:
    expected = cross_entropy_loss(STUDENT, LABELS)
    assert torch.isclose(cskd_loss(STUDENT, STUDENT.clone(), LABELS), expected)
    assert torch.isclose(cskd_loss(STUDENT, TEACHER, LABELS, weight=0.0), expected)


def test_cskd_loss_teaches_the_student_and_not_the_partner() -> None:
    student, partner = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    cskd_loss(student, partner, LABELS).backward()
    assert student.grad is not None
    assert partner.grad is None


# logit_standardize


@pytest.mark.recomputed("logit_standardize", by="formula")
def test_logit_standardize_has_mean_0_and_unbiased_deviation_1() -> None:
    z = logit_standardize(STUDENT)
    assert z.shape == (B, C)
    for before, after in zip(STUDENT.tolist(), z.tolist(), strict=True):
        deviation = math.sqrt(sum((v - mean(before)) ** 2 for v in before) / (C - 1))
        assert after == pytest.approx([(v - mean(before)) / (deviation + 1e-7) for v in before], abs=1e-9)


def test_logit_standardize_takes_scale_and_offset_out_of_distillation() -> None:
    student = logit_standardize(0.1 * TEACHER + 5)
    assert kd_loss(student, logit_standardize(TEACHER)).item() == pytest.approx(0, abs=1e-12)
    assert kd_loss(0.1 * TEACHER + 5, TEACHER) > 0.1


def test_logit_standardize_gradcheck() -> None:
    assert gradcheck(logit_standardize, [STUDENT.clone().requires_grad_()])


@pytest.mark.parametrize("logits", [torch.zeros(2, 3), torch.full((2, 3), 1e4), torch.ones(2, 1), 1e4 * torch.eye(3)])
def test_logit_standardize_is_finite_for_equal_logits(logits: Tensor) -> None:
    logits = logits.to(torch.bfloat16).requires_grad_()
    z = logit_standardize(logits)
    z.square().sum().backward()
    assert z.dtype == torch.float32
    assert z.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
