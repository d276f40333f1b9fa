"""The losses on what lies between two layers: values by hand, definitions in loops, invariances, and faults."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fedkd.base.errors import InputError
from fedkd.losses import fsp_loss, kdsvd_loss
from fedkd.losses.singular_vectors import right_singular_vectors

Pair = tuple[Tensor, Tensor]


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


B, C, D = 2, 5, 6  # channels of the first and of the second map
STUDENT: Pair = (maps(0, B, C, 4, 4), maps(1, B, D, 2, 2))
TEACHER: Pair = (maps(2, B, C, 4, 4), maps(3, B, D, 4, 2))
LOSSES: dict[str, Callable[[Pair, Pair], Tensor]] = {
    "fsp": fsp_loss,
    "fsp, torchdistill": partial(fsp_loss, preset="torchdistill"),
    "kdsvd": kdsvd_loss,
    "kdsvd, k = 3": partial(kdsvd_loss, k=3),
}


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> Callable[[Pair, Pair], Tensor]:
    return LOSSES[request.param]


# What all of them owe


@pytest.mark.slow
def test_gradcheck(loss: Callable[[Pair, Pair], Tensor]) -> None:
    teacher: Pair = (TEACHER[0][:1], TEACHER[1][:1])
    assert gradcheck(lambda *student: loss(student, teacher), [part[:1].clone().requires_grad_() for part in STUDENT])


def test_teaches_both_of_the_students_maps_and_no_teacher(loss: Callable[[Pair, Pair], Tensor]) -> None:
    student, teacher = (tuple(part.clone().requires_grad_() for part in pair) for pair in (STUDENT, TEACHER))
    loss(student, teacher).backward()
    assert all(part.grad.any() for part in student)
    assert all(part.grad is None for part in teacher)


def one_rank(pair: Pair) -> Pair:
    """Every channel alike: all but one singular value are 0."""
    return tuple(part[:, :1].expand_as(part) for part in pair)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda pair: tuple(1e4 * part for part in pair), id="large"),
        pytest.param(lambda pair: tuple(1e-18 * part for part in pair), id="tiny"),
        pytest.param(lambda pair: tuple(0 * part for part in pair), id="zeros"),
        pytest.param(lambda pair: tuple(torch.ones_like(part) for part in pair), id="ones"),
        pytest.param(one_rank, id="one rank"),
        pytest.param(lambda pair: tuple(part[:1] for part in pair), id="one sample"),
        pytest.param(lambda pair: TEACHER, id="equal"),
        pytest.param(
            lambda pair: tuple(torch.eye(part.shape[1]).view(1, part.shape[1], 1, -1) for part in pair), id="identity"
        ),
    ],
)
def test_is_finite_with_a_finite_gradient(
    loss: Callable[[Pair, Pair], Tensor], change: Callable[[Pair], Pair], dtype: torch.dtype
) -> None:
    student = tuple(part.detach().to(dtype).requires_grad_() for part in change(STUDENT))
    teacher = tuple(part.to(dtype)[: len(student[0])] for part in TEACHER)
    value = loss(student, teacher)
    assert value.shape == ()
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert value.isfinite()
    value.backward()
    assert all(part.grad.isfinite().all() for part in student)


def test_vanishes_where_the_student_is_the_teacher(loss: Callable[[Pair, Pair], Tensor]) -> None:
    assert loss(TEACHER, TEACHER).item() == pytest.approx(0, abs=1e-12)
    assert loss(STUDENT, TEACHER) > 1e-3


def test_is_the_mean_over_the_batch(loss: Callable[[Pair, Pair], Tensor]) -> None:
    def sample(pair: Pair, i: int) -> Pair:
        return pair[0][i : i + 1], pair[1][i : i + 1]

    alone = torch.stack([loss(sample(STUDENT, i), sample(TEACHER, i)) for i in range(B)])
    torch.testing.assert_close(loss(STUDENT, TEACHER), alone.mean())


@pytest.mark.parametrize("loss", [fsp_loss, kdsvd_loss])
def test_refuses_wrong_shapes(loss: Callable[..., Tensor]) -> None:
    name = loss.__name__
    with pytest.raises(ValueError, match=rf"{name}: teacher's second map is \(2, 7, 2, 2\); expected \(2, 6, h, w\)"):
        loss(STUDENT, (TEACHER[0], maps(0, B, 7, 2, 2)))
    with pytest.raises(ValueError, match=rf"{name}: teacher's first map is \(1, 5, 4, 4\); expected \(2, 5, h, w\)"):
        loss(STUDENT, (TEACHER[0][:1], TEACHER[1][:1]))
    with pytest.raises(ValueError, match=rf"{name}: student's second map is \(2, 6, 2\); expected \(2, c, h, w\)"):
        loss((STUDENT[0], STUDENT[1][..., 0]), TEACHER)


# Flow of the solution procedure


@pytest.mark.recomputed("fsp_loss", by="formula")
@pytest.mark.parametrize(("preset", "pool"), [("repdistiller", torch.mean), ("torchdistill", torch.amax)])
def test_fsp_loss_is_its_definition(preset: str, pool: Callable[..., Tensor]) -> None:
    def flow(first: Tensor, second: Tensor) -> np.ndarray:
        """Of one sample; the first map is pooled to the second's size, in blocks."""
        _, height, width = second.shape
        first = pool(first.reshape(C, height, 4 // height, width, 4 // width), (2, 4))
        result = np.zeros((C, D))
        for c in range(C):
            for d in range(D):
                for i in range(height):
                    for j in range(width):
                        result[c, d] += first[c, i, j] * second[d, i, j] / (height * width)
        return result

    differences = [flow(s1, s2) - flow(t1, t2) for s1, s2, t1, t2 in zip(*STUDENT, *TEACHER, strict=True)]
    expected = {
        "repdistiller": sum((d**2).sum() for d in differences) / (B * C * D),
        "torchdistill": sum(math.sqrt((d[:, j] ** 2).sum()) for d in differences for j in range(D)) / B,
    }
    assert fsp_loss(STUDENT, TEACHER, preset=preset).item() == pytest.approx(expected[preset], rel=1e-9)


def test_fsp_loss_pools_whichever_map_is_larger() -> None:
    """G becomes its transpose where the two maps change places; a mean over it does not see that."""
    turned = fsp_loss((STUDENT[1], STUDENT[0]), (TEACHER[1], TEACHER[0]))
    torch.testing.assert_close(turned, fsp_loss(STUDENT, TEACHER))


@pytest.mark.parametrize("preset", ["repdistiller", "torchdistill"])
def test_fsp_loss_sees_no_scale_that_moves_between_the_layers(preset: str) -> None:
    moved = (3 * STUDENT[0], STUDENT[1] / 3)
    torch.testing.assert_close(fsp_loss(moved, TEACHER, preset=preset), fsp_loss(STUDENT, TEACHER, preset=preset))


def test_fsp_loss_refuses_an_unknown_preset() -> None:
    with pytest.raises(InputError, match="unknown fsp_loss: preset 'paper': known are repdistiller, torchdistill"):
        fsp_loss(STUDENT, TEACHER, preset="paper")


# Singular vectors between layers


@pytest.mark.recomputed("kdsvd_loss", by="hand")
def test_kdsvd_loss_by_hand() -> None:
    """One direction a layer. The teacher's stays, the student's turns from (1, 0) to (0.8, 0.6)."""
    east, turned = torch.tensor([9.0, 0.0]).view(1, 2, 1, 1), torch.tensor([-4.0, -3.0]).view(1, 2, 1, 1)
    loss = kdsvd_loss((east, turned), (east, east))
    taught = [1 - 1, 1 - 0, 0 - 1, 0 - 0]  # every component of the second with every component of the first
    learnt = [0.8 - 1, 0.8 - 0, 0.6 - 1, 0.6 - 0]
    expected = sum((math.exp(-(a**2) / 8) - math.exp(-(b**2) / 8)) ** 2 for a, b in zip(learnt, taught, strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-5)  # 0.0132


@pytest.mark.recomputed("kdsvd_loss", by="formula")
@pytest.mark.parametrize("k", [1, 3])
def test_kdsvd_loss_is_its_definition(k: int) -> None:
    def directions(student: Tensor, teacher: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The k directions of one sample's teacher as rows, and the student's nearest."""
        _, values, taught = np.linalg.svd(teacher.flatten(1).T.numpy(), full_matrices=False)
        _, _, offered = np.linalg.svd(student.flatten(1).T.numpy(), full_matrices=False)
        rows = []
        for value, v in zip(values[:k] / np.sqrt((values[:k] ** 2).sum()), taught, strict=False):
            v = v * np.sign(v[np.abs(v).argmax()])
            u = max(offered[: k + 3], key=lambda u: abs(u @ v))
            rows.append((value * u * np.sign(u @ v), value * v))
        return tuple(np.stack(part) for part in zip(*rows, strict=True))

    total = 0.0
    for s1, s2, t1, t2 in zip(*STUDENT, *TEACHER, strict=True):
        (u1, v1), (u2, v2) = directions(s1, t1), directions(s2, t2)
        for n in range(k):
            for i in range(D):
                for j in range(C):
                    learnt, taught = u2[n, i] - u1[n, j], v2[n, i] - v1[n, j]
                    total += (math.exp(-(learnt**2) / 8) - math.exp(-(taught**2) / 8)) ** 2
    assert kdsvd_loss(STUDENT, TEACHER, k=k).item() == pytest.approx(total / B, rel=1e-9)


def test_kdsvd_loss_sees_neither_scale_nor_sign_nor_places() -> None:
    expected = kdsvd_loss(STUDENT, TEACHER, k=2)
    for student, teacher in [
        ((-5 * STUDENT[0], 1e-3 * STUDENT[1]), TEACHER),
        ((STUDENT[0].flip(2), STUDENT[1].mT), TEACHER),
        (STUDENT, (-TEACHER[0], 7 * TEACHER[1])),
    ]:
        torch.testing.assert_close(kdsvd_loss(student, teacher, k=2), expected)


@pytest.mark.parametrize("k", [0, 6])
def test_kdsvd_loss_refuses_more_vectors_than_there_are(k: int) -> None:
    with pytest.raises(ValueError, match=f"kdsvd_loss: k is {k}; the teacher's maps have 1 to 5 singular vectors"):
        kdsvd_loss(STUDENT, TEACHER, k=k)


# Their gradient


@pytest.mark.parametrize("shape", [(7, 4), (4, 4), (3, 5)])
def test_singular_vectors_and_their_gradient_are_those_of_torch_where_singular_values_differ(shape: tuple[int, int]) -> None:
    matrices = maps(4, 2, *shape).requires_grad_()
    _, _, transposed = torch.linalg.svd(matrices, full_matrices=False)
    direction = maps(5, 2, shape[1], 2)
    ours, theirs = right_singular_vectors(matrices, 2), transposed.mT[:, :, :2]
    torch.testing.assert_close(ours, theirs)
    (own,) = torch.autograd.grad((ours * direction).sum(), matrices)
    (reference,) = torch.autograd.grad((theirs * direction).sum(), matrices)
    torch.testing.assert_close(own, reference)


def test_the_gradient_of_singular_vectors_survives_equal_singular_values_of_others() -> None:
    """Two dead channels: torch's gradient is not a number, though the first vector moves smoothly."""
    matrices = maps(6, 1, 4, 4)
    matrices[:, :, 2:] = 0
    matrices.requires_grad_()

    def first(matrices: Tensor) -> Tensor:
        return right_singular_vectors(matrices, 1).square()

    _, _, transposed = torch.linalg.svd(matrices)
    (broken,) = torch.autograd.grad(transposed[:, 0].square().sum() + transposed[:, 0, 0], matrices)
    assert not broken.isfinite().all()
    assert gradcheck(first, [matrices])


def test_a_turn_between_two_equal_singular_values_has_no_gradient() -> None:
    matrices = torch.diag(torch.tensor([2.0, 2.0, 1.0])).double()[None].requires_grad_()
    vectors = right_singular_vectors(matrices, 1)  # e_1 or e_2
    own = int(vectors.detach().abs().argmax())
    (toward_twin,) = torch.autograd.grad(vectors[0, 1 - own, 0], matrices, retain_graph=True)
    (toward_third,) = torch.autograd.grad(vectors[0, 2, 0], matrices)
    assert not toward_twin.any()
    assert toward_third.any()
