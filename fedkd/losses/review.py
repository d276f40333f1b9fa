"""Knowledge review: Chen et al. 2021, arXiv 2104.09044. A stage of the student learns from all the teacher's up to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.losses.precision import at_least_float32
from fedkd.losses.shapes import require_shape


class ReviewKD(nn.Module):
    """The student's maps are fused from the deepest to the shallowest, and each fusion is compared to the teacher's map there.

    With s the student's maps and r the fused map handed on, r of the deepest stage being reduce(s)::

        x = reduce(s);  r = nearest(r);  g = sigmoid(conv1x1([x, r]));  r = g_0 x + g_1 r        reduce: conv 1x1, BatchNorm
        loss = sum over stages of hcl_loss(expand(nearest(r)), teacher)                          expand: conv 3x3, BatchNorm

    The first ``nearest`` is to the student's size, the second to the teacher's. Shapes are those of the maps without the batch,
    shallow to deep; the pooled last feature counts as the deepest stage, (c, 1, 1), in the authors' code, which takes the
    teacher's maps before their activation and multiplies the loss by a weight that grows over 20 epochs: both the caller's.
    Computed in the parameters' type, outside autocast: keep the module in float32 or float64. Because of BatchNorm a batch of
    one cannot train a stage of size 1 x 1.

    Args:
        student_shapes: (c, h, w) of the student's maps, shallow to deep.
        teacher_shapes: (c, h, w) of the teacher's maps, as many.
        mid_channels: at most so many channels inside; the deepest student stage's if that has fewer.

    Raises:
        ValueError: no stage, or not as many of the teacher.

    >>> review = ReviewKD([(2, 4, 4), (4, 1, 1)], [(3, 8, 8), (6, 1, 1)])
    >>> for fusion in review.fusions:
    ...     _ = nn.init.zeros_(fusion.expand[1].weight)  # the last BatchNorm: predicts 0
    >>> students = [torch.randn(2, 2, 4, 4), torch.randn(2, 4, 1, 1)]
    >>> round(review(students, [torch.full((2, 3, 8, 8), 3.0), torch.full((2, 6, 1, 1), 2.0)]).item(), 4)  # 3^2 + 2^2
    13.0
    """

    def __init__(
        self,
        student_shapes: Sequence[tuple[int, int, int]],
        teacher_shapes: Sequence[tuple[int, int, int]],
        *,
        mid_channels: int = 512,
    ) -> None:
        super().__init__()
        if not student_shapes or len(student_shapes) != len(teacher_shapes):
            raise ValueError(f"ReviewKD: {len(student_shapes)} student stages and {len(teacher_shapes)} of the teacher")
        self.student_shapes, self.teacher_shapes = list(student_shapes), list(teacher_shapes)
        mid = min(mid_channels, student_shapes[-1][0])
        self.fusions = nn.ModuleList(
            AttentionFusion(student[0], mid, teacher[0], deepest=stage == len(student_shapes) - 1)
            for stage, (student, teacher) in enumerate(zip(student_shapes, teacher_shapes, strict=True))
        )

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """The sum over stages; gradient to the student's maps and the fusions.

        Args:
            students: maps (B, c, h, w), shallow to deep, any float type.
            teachers: maps (B, c, h, w), shallow to deep, of the same samples, in the same order; constants here.

        Returns:
            () float32 or better, at least 0.

        Raises:
            ValueError: another number of maps, or a map of another shape.
        """
        if not len(students) == len(teachers) == len(self.fusions):
            found = f"{len(students)} student maps and {len(teachers)} teacher maps"
            raise ValueError(f"ReviewKD: {found}; made for {len(self.fusions)} of each")
        for stage, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            require_shape(f"ReviewKD: student map {stage}", student, "B", *self.student_shapes[stage])
            require_shape(f"ReviewKD: teacher map {stage}", teacher, len(students[0]), *self.teacher_shapes[stage])
        dtype = next(self.parameters()).dtype
        with torch.autocast(students[0].device.type, enabled=False):
            fused: Tensor | None = None
            losses = []
            for fusion, student, teacher in zip(reversed(self.fusions), reversed(students), reversed(teachers), strict=True):
                prediction, fused = fusion(student.to(dtype), fused, teacher.shape[-2:])
                losses.append(hcl_loss(prediction, teacher.to(dtype)))
            return torch.stack(losses).sum()


class AttentionFusion(nn.Module):
    """One stage of ``ReviewKD``: the student's map and what came from the deeper stage, each with a gate at every position."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, *, deepest: bool) -> None:
        super().__init__()
        reduce = nn.Conv2d(in_channels, mid_channels, 1, bias=False)
        expand = nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=False)
        for convolution in (reduce, expand):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        self.reduce = nn.Sequential(reduce, nn.BatchNorm2d(mid_channels))
        self.expand = nn.Sequential(expand, nn.BatchNorm2d(out_channels))
        self.gates = None if deepest else nn.Sequential(nn.Conv2d(2 * mid_channels, 2, 1), nn.Sigmoid())

    def forward(self, student: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The prediction of the teacher's map (B, c_t, *size), and the fused map (B, mid, *size) for the next stage."""
        fused: Tensor = self.reduce(student)  # (B, mid, h, w)
        if self.gates is not None and deeper is not None:
            deeper = F.interpolate(deeper, student.shape[-2:], mode="nearest")
            gates = self.gates(torch.cat([fused, deeper], dim=1))  # (B, 2, h, w)
            fused = gates[:, :1] * fused + gates[:, 1:] * deeper
        fused = F.interpolate(fused, size, mode="nearest")  # (B, mid, *size)
        return self.expand(fused), fused


def hcl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss: mean squared errors of two maps and of coarser and coarser averages of them::

        loss = sum_k 2^-k MSE(pool_k(student), pool_k(teacher)) / sum_k 2^-k

    pool_0 is the map itself; then come averages over 4x4, 2x2 and 1x1 regions, those left out that are not smaller than the
    map. As in the authors' code the weights count the levels that are there: of a 4x4 map 1, 1/2 for 2x2, and 1/4 for 1x1. That
    code looks at the height alone, which is the same for square maps. The gradient reaches the student only.

    Args:
        student: (B, c, h, w) maps, any float type; computed in float32 or better.
        teacher: (B, c, h, w) of the same samples, in the same order; a constant here.

    Returns:
        () float32 or better, at least 0.

    Raises:
        ValueError: the maps differ in shape.

    >>> student, teacher = torch.tensor([[[[3.0, 1.0], [1.0, 1.0]]]]), torch.ones(1, 1, 2, 2)
    >>> round(hcl_loss(student, teacher).item(), 4)  # (4/4 + (1/2)^2 / 2) / (1 + 1/2)
    0.75
    """
    require_shape("hcl_loss: student", student, "B", "c", "h", "w")
    require_shape("hcl_loss: teacher", teacher, *student.shape)
    student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
    sizes = [size for size in (4, 2, 1) if size < min(student.shape[-2:])]
    losses = [F.mse_loss(student, teacher)]
    losses += [F.mse_loss(F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)) for size in sizes]
    weights = [0.5**level for level in range(len(losses))]
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum() / sum(weights)
