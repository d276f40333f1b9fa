"""Knowledge review: the hierarchical loss in loops, the fusion by its layers, and what a stage learns from."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck

from fedkd.losses import ReviewKD, hcl_loss


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def average(x: Tensor, size: int) -> Tensor:
    """Of square regions of one map (h, h), h a multiple of size."""
    step = len(x) // size
    regions = [[x[i * step : (i + 1) * step, j * step : (j + 1) * step].mean() for j in range(size)] for i in range(size)]
    return torch.stack([torch.stack(row) for row in regions])


@pytest.mark.recomputed("hcl_loss", by="formula")
@pytest.mark.parametrize(
    ("size", "weights"), [(8, {8: 1, 4: 1 / 2, 2: 1 / 4, 1: 1 / 8}), (4, {4: 1, 2: 1 / 2, 1: 1 / 4}), (1, {1: 1})]
)
def test_hcl_equals_the_definition(size: int, weights: dict[int, float]) -> None:
    student, teacher = draw(0, 2, 3, size, size), draw(1, 2, 3, size, size)
    expected = 0.0
    for regions, weight in weights.items():
        for own, target in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True):
            squares = (average(own, regions) - average(target, regions)).square().mean().item()
            expected += weight * squares / (2 * 3) / sum(weights.values())
    assert hcl_loss(student, teacher).item() == pytest.approx(expected, abs=1e-9)


def test_hcl_of_maps_that_differ_by_a_constant_is_its_square() -> None:
    maps = torch.randn(2, 3, 8, 8)
    assert hcl_loss(maps, maps + 3).item() == pytest.approx(9, rel=1e-5)  # the average differs by it on every level


def test_hcl_gradcheck() -> None:
    assert gradcheck(lambda x: hcl_loss(x, draw(1, 2, 3, 4, 4)), [draw(0, 2, 3, 4, 4).requires_grad_()])


@pytest.mark.recomputed("ReviewKD", by="formula")
def test_fuses_from_deep_to_shallow_as_defined() -> None:
    """Two stages by the layers' own weights; BatchNorm in evaluation starts as division by sqrt(1 + 1e-5)."""
    review = ReviewKD([(2, 4, 4), (3, 2, 2)], [(5, 4, 4), (6, 2, 2)]).double().eval()
    students, teachers = [draw(0, 2, 2, 4, 4), draw(1, 2, 3, 2, 2)], [draw(2, 2, 5, 4, 4), draw(3, 2, 6, 2, 2)]
    shallow, deep = review.fusions
    scale = math.sqrt(1 + 1e-5)

    def reduce(fusion: nn.Module, x: Tensor) -> Tensor:
        return torch.einsum("oi,bihw->bohw", fusion.reduce[0].weight[:, :, 0, 0], x) / scale

    def expand(fusion: nn.Module, x: Tensor) -> Tensor:
        return F.conv2d(x, fusion.expand[0].weight, padding=1) / scale

    deepest = reduce(deep, students[1])
    handed_on = deepest.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # nearest: 2x2 to 4x4
    own = reduce(shallow, students[0])
    weight, bias = shallow.gates[0].weight[:, :, 0, 0], shallow.gates[0].bias
    logits = torch.einsum("oi,bihw->bohw", weight, torch.cat([own, handed_on], 1)) + bias[:, None, None]
    gates = 1 / (1 + torch.exp(-logits))
    fused = gates[:, 0:1] * own + gates[:, 1:2] * handed_on
    expected = hcl_loss(expand(deep, deepest), teachers[1]) + hcl_loss(expand(shallow, fused), teachers[0])
    torch.testing.assert_close(review(students, teachers), expected)


def test_a_deep_teacher_stage_teaches_no_shallow_student_map_and_a_shallow_one_all() -> None:
    review = ReviewKD([(2, 4, 4), (3, 2, 2)], [(2, 4, 4), (3, 2, 2)])
    students = [torch.randn(2, 2, 4, 4, requires_grad=True), torch.randn(2, 3, 2, 2, requires_grad=True)]
    prediction, fused = review.fusions[1](students[1], None, (2, 2))
    assert torch.autograd.grad(prediction.sum(), students, allow_unused=True)[0] is None
    prediction, fused = review.fusions[0](students[0], fused.detach().requires_grad_(), (4, 4))
    assert prediction.shape == (2, 2, 4, 4)
    review(students, [torch.randn(2, 2, 4, 4), torch.randn(2, 3, 2, 2)]).backward()
    assert all(student.grad is not None and student.grad.any() for student in students)


def test_channels_inside_are_the_deepest_stages_up_to_the_cap() -> None:
    shapes = [(2, 4, 4), (7, 2, 2)]
    assert ReviewKD(shapes, shapes).fusions[0].reduce[0].out_channels == 7
    assert ReviewKD(shapes, shapes, mid_channels=5).fusions[0].reduce[0].out_channels == 5


def test_wrong_arguments_are_named() -> None:
    shapes, maps = [(2, 4, 4), (3, 2, 2)], [torch.ones(2, 2, 4, 4), torch.ones(2, 3, 2, 2)]
    with pytest.raises(ValueError, match="2 student stages and 1 of the teacher"):
        ReviewKD(shapes, shapes[:1])
    with pytest.raises(ValueError, match="1 student maps and 2 teacher maps; made for 2 of each"):
        ReviewKD(shapes, shapes)(maps[:1], maps)
    with pytest.raises(ValueError, match=r"student map 0 is \(2, 3, 2, 2\); expected \(B, 2, 4, 4\)"):
        ReviewKD(shapes, shapes)(maps[::-1], maps)
