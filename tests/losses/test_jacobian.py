"""Jacobian matching against a value by hand, a finite difference, and faults."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from fedkd.losses import jacobian_loss

B, C = 3, 4
SHAPE = (1, 2, 3)
PIXELS = 6
LABELS = torch.tensor([2, 0, 2])


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


IMAGES, WEIGHTS, TEACHER_WEIGHTS = draw(0, B, *SHAPE), draw(1, PIXELS, C), draw(2, PIXELS, C)


def logits(images: Tensor, weights: Tensor) -> Tensor:
    """A net whose Jacobian depends on the image: (B, c, h, w) -> (B, C)."""
    return images.flatten(1).tanh() @ weights


def loss_of(images: Tensor, weights: Tensor, teacher_weights: Tensor = TEACHER_WEIGHTS) -> Tensor:
    return jacobian_loss(logits(images, weights), logits(images, teacher_weights), images, LABELS)


@pytest.mark.recomputed("jacobian_loss", by="formula")
def test_equals_the_definition_with_jacobians_by_finite_difference() -> None:
    def jacobian(weights: Tensor, b: int) -> Tensor:
        """Of the label's logit by each pixel, of length 1."""
        slopes, step = torch.zeros(PIXELS, dtype=torch.float64), 1e-6
        for pixel in range(PIXELS):
            ahead, behind = IMAGES[b : b + 1].flatten(1).clone(), IMAGES[b : b + 1].flatten(1).clone()
            ahead[0, pixel] += step
            behind[0, pixel] -= step
            slopes[pixel] = (logits(ahead, weights) - logits(behind, weights))[0, LABELS[b]] / (2 * step)
        return slopes / slopes.norm()

    squares = [(jacobian(WEIGHTS, b) - jacobian(TEACHER_WEIGHTS, b)).square() for b in range(B)]
    expected = torch.stack(squares).mean()
    torch.testing.assert_close(loss_of(IMAGES.clone().requires_grad_(), WEIGHTS.clone()), expected, rtol=1e-7, atol=0)


@pytest.mark.recomputed("jacobian_loss", by="formula")
def test_equals_the_definition_with_jacobians_by_calculus() -> None:
    """d/dx of tanh(x) . w is (1 - tanh^2 x) w."""
    total = 0.0
    for image, label in zip(IMAGES.flatten(1), LABELS, strict=True):
        student, teacher = ((1 - image.tanh() ** 2) * weights[:, label] for weights in (WEIGHTS, TEACHER_WEIGHTS))
        total += (student / student.norm() - teacher / teacher.norm()).square().sum().item()
    loss = loss_of(IMAGES.clone().requires_grad_(), WEIGHTS.clone())
    assert loss.item() == pytest.approx(total / (B * PIXELS), rel=1e-9)


def test_gradcheck_of_the_students_weights() -> None:
    images = IMAGES.clone().requires_grad_()
    assert gradcheck(lambda weights: loss_of(images, weights), [WEIGHTS.clone().requires_grad_()])


def test_teaches_no_teacher_and_leaves_its_graph_to_others() -> None:
    images, weights, teacher_weights = (x.clone().requires_grad_() for x in (IMAGES, WEIGHTS, TEACHER_WEIGHTS))
    teacher = logits(images, teacher_weights)
    jacobian_loss(logits(images, weights), teacher, images, LABELS).backward()
    assert weights.grad is not None
    assert weights.grad.any()
    assert teacher_weights.grad is None
    teacher.sum().backward()


def test_sees_neither_the_scale_of_the_logits_nor_the_other_classes() -> None:
    images = IMAGES.clone().requires_grad_()
    others = WEIGHTS.clone()
    others[:, [1, 3]] = 7.0  # no sample's label
    torch.testing.assert_close(loss_of(images, 100 * WEIGHTS), loss_of(images, WEIGHTS))
    torch.testing.assert_close(loss_of(images, others), loss_of(images, WEIGHTS))
    assert loss_of(images, -TEACHER_WEIGHTS).item() == pytest.approx(4 / PIXELS)  # the largest: opposite directions


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "weights",
    [
        pytest.param(1e4 * WEIGHTS, id="large"),
        pytest.param(0 * WEIGHTS, id="zeros"),
        pytest.param(TEACHER_WEIGHTS, id="equal"),
    ],
)
def test_is_finite_with_a_finite_gradient(weights: Tensor, dtype: torch.dtype) -> None:
    images, student = IMAGES.to(dtype, copy=True).requires_grad_(), weights.to(dtype, copy=True).requires_grad_()
    loss = loss_of(images, student, TEACHER_WEIGHTS.to(dtype))
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert loss.isfinite()
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_one_sample_of_a_convolutional_net_learns_the_teachers_jacobian() -> None:
    torch.manual_seed(0)
    student, teacher = (
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(24, C)) for _ in range(2)
    )
    images = IMAGES[:1].float().requires_grad_()
    optimiser = torch.optim.Adam(student.parameters(), lr=0.04)
    values = []
    for _ in range(10):
        optimiser.zero_grad()
        loss = jacobian_loss(student(images), teacher(images), images, LABELS[:1])
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < 0.1 * values[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s, t, x, y: (s, t[:, :2], x, y), r"teacher is \(3, 2\); expected \(3, 4\)"),
        (lambda s, t, x, y: (s, t, x[:2], y), r"images is \(2, 1, 2, 3\); expected \(3, 1, 2, 3\)"),
        (lambda s, t, x, y: (s, t, x, y[:2]), r"labels is \(2,\); expected \(3\)"),
        (lambda s, t, x, y: (s, t.detach(), x, y), r"compute the teacher's logits from images after images\.requires_grad_"),
        (lambda s, t, x, y: (s, t, x.detach(), y), r"compute the teacher's logits from images after images\.requires_grad_"),
        (lambda s, t, x, y: (s, t, x.clone().detach().requires_grad_(), y), "logits do not depend on these images"),
    ],
)
def test_bad_arguments_are_named(spoil: Callable[..., tuple[Tensor, ...]], message: str) -> None:
    images = IMAGES.clone().requires_grad_()
    with pytest.raises(ValueError, match=f"jacobian_loss: .*{message}"):
        jacobian_loss(*spoil(logits(images, WEIGHTS), logits(images, TEACHER_WEIGHTS), images, LABELS))
