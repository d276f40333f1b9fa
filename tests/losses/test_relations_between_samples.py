"""Losses on how the samples of a batch relate: by hand, by loops over their formulas, and what changes nothing."""

import math
from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.autograd.graph import saved_tensors_hooks

from fedkd.base.errors import InputError
from fedkd.losses import cc_loss, pkt_loss, rkd_angle_loss, rkd_distance_loss, sp_loss
from fedkd.losses.rows import unit_rows

B, D = 6, 4
Loss = Callable[..., Tensor]


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHER = rows(0, B, D), rows(1, B, D)
ROTATION = torch.linalg.qr(rows(2, D, D)).Q

EVERY: dict[str, Loss] = {
    "sp": sp_loss,
    "sp, torchdistill": partial(sp_loss, preset="torchdistill"),
    "cc": cc_loss,
    "cc, torchdistill": partial(cc_loss, preset="torchdistill"),
    "cc, kd_zoo": partial(cc_loss, preset="kd_zoo"),
    "rkd distance": rkd_distance_loss,
    "rkd distance, kd_lib": partial(rkd_distance_loss, preset="kd_lib"),
    "rkd distance, mmrazor": partial(rkd_distance_loss, preset="mmrazor"),
    "rkd angle": rkd_angle_loss,
    "rkd angle, kd_lib": partial(rkd_angle_loss, preset="kd_lib"),
    "rkd angle, mmrazor": partial(rkd_angle_loss, preset="mmrazor"),
    "rkd angle, chunks": partial(rkd_angle_loss, chunk=4),
    "pkt": pkt_loss,
}
#: All but cc as RepDistiller has it: samples related to samples, whatever their order and the embeddings' widths.
RELATIONAL = [name for name in EVERY if name != "cc"]


# The formulas, a loop for each index.


def huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def mean_square(a: Tensor, b: Tensor) -> float:
    return sum((a[i, j] - b[i, j]).item() ** 2 for i, j in product(range(B), repeat=2)) / B**2


def unit(e: Tensor) -> Tensor:
    return torch.stack([row / math.sqrt(sum(v * v for v in row.tolist())) for row in e])


def sp_matrix(e: Tensor, order: int) -> Tensor:
    gram = torch.tensor([[float(x @ y) for y in e] for x in e], dtype=torch.float64)
    return torch.stack([row / sum(abs(v) ** order for v in row.tolist()) ** (1 / order) for row in gram])


def cc_kernel(e: Tensor) -> Tensor:
    def kernel(x: Tensor, y: Tensor) -> float:
        return math.exp(-0.8) * sum((0.8 * float(x @ y)) ** p / math.factorial(p) for p in range(3))

    return torch.tensor([[kernel(x, y) for y in e] for x in e], dtype=torch.float64)


def cc_neighbours(s: Tensor, t: Tensor) -> float:
    return sum(float((s[i] - t[i]).abs() @ (s[i + 1] - t[i + 1]).abs()) for i in range(B - 1)) / (B - 1)


def rkd_distance(s: Tensor, t: Tensor, eps: float = 0.0) -> float:
    def spaced(e: Tensor) -> Tensor:
        distances = torch.tensor([[math.dist(x, y) for y in e.tolist()] for x in e.tolist()], dtype=torch.float64)
        return distances / (distances[distances > 0].mean() + eps)

    d_s, d_t = spaced(s), spaced(t)
    return sum(huber((d_s[i, j] - d_t[i, j]).item()) for i, j in product(range(B), repeat=2)) / B**2


def rkd_angle(s: Tensor, t: Tensor) -> float:
    def cosine(e: Tensor, i: int, j: int, k: int) -> float:
        if i in (j, k):
            return 0.0
        a, b = e[j] - e[i], e[k] - e[i]
        return float(a @ b / (a.norm() * b.norm()))

    return sum(huber(cosine(s, *ijk) - cosine(t, *ijk)) for ijk in product(range(B), repeat=3)) / B**3


def pkt(s: Tensor, t: Tensor) -> float:
    def picks(e: Tensor, i: int) -> list[float]:
        u = [x / (x.norm() + 1e-7) for x in e]
        similar = [(float(u[i] @ u[j]) + 1) / 2 for j in range(B)]
        return [value / sum(similar) for value in similar]

    total = 0.0
    for i in range(B):
        for p_s, p_t in zip(picks(s, i), picks(t, i), strict=True):
            total += p_t * math.log((p_t + 1e-7) / (p_s + 1e-7))
    return total / B**2


FORMULAS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "sp": lambda s, t: mean_square(sp_matrix(s, 2), sp_matrix(t, 2)),
    "sp, torchdistill": lambda s, t: mean_square(sp_matrix(s, 1), sp_matrix(t, 1)),
    "cc": cc_neighbours,
    "cc, torchdistill": lambda s, t: math.sqrt(mean_square(cc_kernel(s), cc_kernel(t)) * B**2) / B**2,
    "cc, kd_zoo": lambda s, t: mean_square(cc_kernel(unit(s)), cc_kernel(unit(t))),
    "rkd distance": rkd_distance,
    "rkd distance, kd_lib": partial(rkd_distance, eps=1e-7),
    "rkd distance, mmrazor": lambda s, t: rkd_distance(unit(s), unit(t)),
    "rkd angle": rkd_angle,
    "rkd angle, kd_lib": rkd_angle,
    "rkd angle, mmrazor": lambda s, t: rkd_angle(unit(s), unit(t)),
    "rkd angle, chunks": rkd_angle,
    "pkt": pkt,
}


@pytest.mark.recomputed("sp_loss", "cc_loss", "rkd_distance_loss", "rkd_angle_loss", "pkt_loss", by="formula")
@pytest.mark.parametrize("name", EVERY)
def test_equals_its_formula(name: str) -> None:
    assert EVERY[name](STUDENT, TEACHER).item() == pytest.approx(FORMULAS[name](STUDENT, TEACHER), rel=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_gradcheck(name: str) -> None:
    assert gradcheck(lambda s: EVERY[name](s, TEACHER[:4]), [STUDENT[:4].clone().requires_grad_()])


@pytest.mark.parametrize("name", EVERY)
def test_is_zero_without_a_gradient_where_student_and_teacher_are_the_same(name: str) -> None:
    student = STUDENT.clone().requires_grad_()
    loss = EVERY[name](student, STUDENT)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-7  # pkt: of the size of its eps


@pytest.mark.parametrize("name", RELATIONAL)
def test_a_common_order_of_the_batch_changes_nothing(name: str) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.isclose(EVERY[name](STUDENT[order], TEACHER[order]), EVERY[name](STUDENT, TEACHER))


@pytest.mark.parametrize("name", RELATIONAL)
@pytest.mark.parametrize("moved", [0, 1])
def test_a_rotation_of_either_changes_nothing(name: str, moved: int) -> None:
    pair = [STUDENT, TEACHER]
    pair[moved] = pair[moved] @ ROTATION
    assert torch.isclose(EVERY[name](*pair), EVERY[name](STUDENT, TEACHER))


@pytest.mark.parametrize("name", [name for name in RELATIONAL if name != "cc, torchdistill"])
def test_a_scale_of_either_changes_nothing(name: str) -> None:
    assert torch.isclose(EVERY[name](5 * STUDENT, 0.3 * TEACHER), EVERY[name](STUDENT, TEACHER), rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in EVERY if name.startswith("rkd")])
def test_a_shift_of_all_embeddings_changes_rkd_of_unnormalised_ones_nothing(name: str) -> None:
    shifted = EVERY[name](STUDENT + 3, TEACHER)
    assert torch.isclose(shifted, EVERY[name](STUDENT, TEACHER)) == ("mmrazor" not in name)


@pytest.mark.parametrize("name", RELATIONAL)
def test_student_and_teacher_may_differ_in_width(name: str) -> None:
    wider = torch.cat([STUDENT, torch.zeros(B, 3, dtype=torch.float64)], dim=1)  # the same relations in more dimensions
    assert EVERY[name](wider, STUDENT).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("name", EVERY)
def test_maps_are_flattened(name: str) -> None:
    maps = [embeddings.view(B, 1, 2, 2) for embeddings in (STUDENT, TEACHER)]
    assert EVERY[name](*maps).item() == EVERY[name](STUDENT, TEACHER).item()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        pytest.param(torch.zeros(B, D), TEACHER, id="nothing but zero vectors"),
        pytest.param(STUDENT * torch.tensor([[0.0]] + [[1.0]] * (B - 1)), TEACHER, id="one zero vector"),
        pytest.param(STUDENT, torch.zeros(B, D), id="a teacher of zero vectors"),
        pytest.param(STUDENT[:1].expand(B, D), TEACHER, id="the same sample all over"),
        pytest.param(STUDENT[[0, 0, 1, 1, 2, 2]], TEACHER, id="pairs of the same sample"),
        pytest.param(torch.cat([STUDENT[:3], -STUDENT[:3]]), TEACHER, id="opposite directions"),
        pytest.param(1e4 * STUDENT, 1e4 * TEACHER, id="large"),
        pytest.param(STUDENT[:1], TEACHER[:1], id="a batch of one"),
        pytest.param(torch.zeros(1, D), TEACHER[:1], id="a batch of one zero vector"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_finite(name: str, student: Tensor, teacher: Tensor, dtype: torch.dtype) -> None:
    student = student.to(dtype, copy=True).requires_grad_()
    loss = EVERY[name](student, teacher.to(dtype))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_a_zero_vector_gets_no_huge_gradient(name: str) -> None:
    """It has no direction to be turned; through a clamped length its gradient would be 1e12 times too large."""
    student = STUDENT.clone()
    student[2] = 0
    student.requires_grad_()
    EVERY[name](student, TEACHER).backward()
    assert student.grad is not None
    assert student.grad[[0, 1, 3, 4, 5]].any(1).all()
    assert student.grad.abs().max() < 1
    if name in ("cc, kd_zoo", "pkt"):  # nothing but directions is read
        assert not student.grad[2].any()


@pytest.mark.parametrize("name", EVERY)
def test_batches_of_different_size_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"_loss: student and teacher are .* of one batch B, not \(6, 4\) and \(5, 4\)"):
        EVERY[name](STUDENT, TEACHER[:5])
    with pytest.raises(ValueError, match=r"not \(6,\) and \(6, 4\)"):
        EVERY[name](STUDENT[:, 0], TEACHER)


@pytest.mark.parametrize("loss", [sp_loss, cc_loss, rkd_distance_loss, rkd_angle_loss])
def test_an_unknown_preset_is_named(loss: Loss) -> None:
    with pytest.raises(InputError, match=f"unknown {loss.__name__}: preset 'repdistillr': did you mean 'repdistiller'"):
        loss(STUDENT, TEACHER, preset="repdistillr")


# sp_loss


@pytest.mark.recomputed("sp_loss", by="hand")
def test_sp_loss_by_hand() -> None:
    """The student tells its two samples apart, the teacher does not: rows (1, 0) against (1, 1) / sqrt 2 or / 2."""
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0], [3.0]])
    near, far = (1 - 1 / math.sqrt(2)) ** 2, 1 / 2
    assert sp_loss(student, teacher).item() == pytest.approx(2 * (near + far) / 4)
    assert sp_loss(student, teacher, preset="torchdistill").item() == pytest.approx(4 * (1 / 2) ** 2 / 4)


# cc_loss


@pytest.mark.recomputed("cc_loss", by="hand")
def test_cc_loss_by_hand() -> None:
    teacher = torch.zeros(3, 2)
    assert cc_loss(torch.tensor([[1.0, -2.0], [3.0, 1.0], [0.0, -5.0]]), teacher).item() == (1 * 3 + 2 * 1 + 3 * 0 + 1 * 5) / 2
    student = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])  # only its first sample is similar to anything: itself
    grown = math.exp(-0.8) * (0.8 + 0.8**2 / 2)
    assert cc_loss(student, teacher, preset="torchdistill").item() == pytest.approx(grown / 9)
    assert cc_loss(student, teacher, preset="kd_zoo").item() == pytest.approx(grown**2 / 9)


def test_cc_loss_of_neighbours_depends_on_the_order_of_the_batch() -> None:
    student, teacher = torch.tensor([[1.0], [1.0], [0.0]]), torch.zeros(3, 1)
    assert cc_loss(student, teacher).item() == 1 / 2  # two wrong samples side by side
    assert cc_loss(student[[0, 2, 1]], teacher).item() == 0  # the same two apart


def test_cc_loss_of_neighbours_wants_one_width_and_a_kernel_does_not() -> None:
    with pytest.raises(ValueError, match=r"cc_loss: the widths .* \(6, 4\) and \(6, 3\): embed both"):
        cc_loss(STUDENT, TEACHER[:, :3])
    assert cc_loss(STUDENT, TEACHER[:, :3], preset="kd_zoo") > 0


@pytest.mark.parametrize("preset", ["repdistiller", "torchdistill", "kd_zoo"])
def test_cc_loss_may_train_both_embeddings(preset: str) -> None:
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    cc_loss(student, teacher, preset=preset).backward()
    assert teacher.grad is None
    cc_loss(student, teacher, detach=False, preset=preset).backward()
    assert teacher.grad is not None
    assert teacher.grad.any(1).all()


# rkd_distance_loss and rkd_angle_loss


@pytest.mark.recomputed("rkd_distance_loss", by="hand")
def test_rkd_distance_loss_by_hand() -> None:
    """Points on a line at 0, 1, 2 and at 0, 1, 4: spacings (3, 3, 6) / 4 and (3, 9, 12) / 8 of the mean."""
    student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [4.0]])
    expected = 2 * (huber(3 / 4 - 3 / 8) + huber(3 / 4 - 9 / 8) + huber(6 / 4 - 12 / 8)) / 9
    assert rkd_distance_loss(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_rkd_distance_loss_counts_the_distance_of_equal_samples_in_the_mean() -> None:
    """The clamp makes them 1e-6 apart, or 1e-5 in KD_Lib, not 0: three pairs, not two."""
    student = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)  # over a mean of 2/3
    teacher = torch.tensor([[0.0], [1.0], [0.5]], dtype=torch.float64)  # over a mean of 2/3 as well
    expected = 2 * (huber(1.5) + 2 * huber(1.5 - 0.75)) / 9
    assert rkd_distance_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert rkd_distance_loss(student, teacher, preset="kd_lib").item() == pytest.approx(expected, rel=1e-4)


def test_rkd_distance_loss_does_not_cancel_far_from_the_origin() -> None:
    student, teacher = (STUDENT + 1000).float(), TEACHER.float()
    expected = rkd_distance_loss(student.double(), teacher.double())
    assert rkd_distance_loss(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.recomputed("rkd_angle_loss", by="hand")
def test_rkd_angle_loss_by_hand() -> None:
    """Three points on a line and an equilateral triangle: cosines (1, -1, 1) and 1/2 at each, both ways round."""
    line = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
    expected = 2 * (huber(1 / 2) + huber(-3 / 2) + huber(1 / 2)) / 27
    assert rkd_angle_loss(line, triangle).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 4, B, B + 1])
def test_rkd_angle_loss_in_chunks_has_the_same_value_and_gradient(chunk: int) -> None:
    whole, parts = (STUDENT.clone().requires_grad_() for _ in range(2))
    rkd_angle_loss(whole, TEACHER).backward()
    loss = rkd_angle_loss(parts, TEACHER, chunk=chunk)
    loss.backward()
    torch.testing.assert_close(loss, rkd_angle_loss(STUDENT, TEACHER))
    torch.testing.assert_close(parts.grad, whole.grad)


def test_rkd_angle_loss_in_chunks_keeps_no_angle_for_the_backward_pass() -> None:
    def kept(chunk: int) -> int:
        saved: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            saved.append(tensor)
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            rkd_angle_loss(rows(3, 32, D).requires_grad_(), rows(4, 32, D), chunk=chunk)
        return sum(tensor.numel() for tensor in saved)

    assert kept(chunk=0) > 2 * 32**3  # the angles of both sides, and directions
    assert kept(chunk=4) <= (32 // 4) * 2 * 32 * D  # the embeddings of both sides, named once a chunk


def test_rkd_angle_loss_in_chunks_is_the_same_inside_an_autocast_region() -> None:
    outside, inside = (STUDENT.float().requires_grad_() for _ in range(2))
    rkd_angle_loss(outside, TEACHER.float(), chunk=2).backward()
    with torch.autocast("cpu", torch.bfloat16):
        loss = rkd_angle_loss(inside, TEACHER.float(), chunk=2)
    loss.backward()
    torch.testing.assert_close(inside.grad, outside.grad, rtol=0, atol=0)


def test_rkd_angle_loss_refuses_a_negative_chunk() -> None:
    with pytest.raises(ValueError, match="rkd_angle_loss: chunk is a number of vertices, or 0 for all, not -1"):
        rkd_angle_loss(STUDENT, TEACHER, chunk=-1)


# pkt_loss


@pytest.mark.recomputed("pkt_loss", by="hand")
def test_pkt_loss_by_hand() -> None:
    """Two opposite samples pick only themselves; two equal ones pick each other as often: log 2 a row, over B^2 pairs."""
    apart, together = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [1.0]])
    assert pkt_loss(together, apart).item() == pytest.approx(2 * math.log(2) / 4, rel=1e-5)


def test_pkt_loss_eps_bounds_what_a_missing_similarity_costs() -> None:
    """A sample that the student never picks, with p_t = 1/2, costs log of about 1 / (2 eps)."""
    apart, together = torch.tensor([[1e9], [-1e9]]).double(), torch.tensor([[1e9], [1e9]]).double()  # where eps is no length
    for eps in (1e-7, 1e-3):
        expected = (math.log((0.5 + eps) / (1 + eps)) + math.log((0.5 + eps) / eps)) / 4
        assert pkt_loss(apart, together, eps=eps).item() == pytest.approx(expected, rel=1e-6)


# rows


def test_unit_rows_gives_a_zero_vector_neither_direction_nor_gradient() -> None:
    vectors = torch.tensor([[3.0, -4.0], [0.0, 0.0]], requires_grad=True)
    units = unit_rows(vectors)
    (units @ torch.tensor([1.0, 2.0])).sum().backward()
    torch.testing.assert_close(units, torch.tensor([[0.6, -0.8], [0.0, 0.0]]))
    torch.testing.assert_close(unit_rows(vectors, order=1.0)[0], torch.tensor([3 / 7, -4 / 7]))
    assert vectors.grad is not None
    assert vectors.grad[0].any()
    assert not vectors.grad[1].any()
