"""Semantic calibration of layers: Chen et al. 2021, arXiv 2012.03236. Attention says which layers correspond."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.losses.shapes import require_shape
from fedkd.losses.spatial import match_spatial


class SemCKD(nn.Module):
    """Every student layer learns from every teacher layer, for each sample by how alike their similarities in the batch are.

    A layer's Gram matrix over the batch, G = F F^T of its maps F (B, chw), has one row a sample. Perceptrons of B inputs turn
    the rows into queries of student layers i and keys of teacher layers j, of B // 4 numbers and length 1::

        alpha_bij = softmax_j(query_bi . key_bj)
        loss = 1 / (B n_s) sum_{b,i,j} alpha_bij mean_{c,h,w} (R_ij(s_i) - t_j)^2

    R_ij is 1x1, 3x3, 1x1 convolutions without bias with BatchNorm and ReLU between them and 2 c_j channels inside. The larger
    map is averaged down to the smaller. B is the size of the perceptrons: a smaller last batch has to be dropped, and the
    batch's order matters. As in the authors' code the gradient reaches the student through its maps and its Gram matrices.
    Computed in the parameters' type, outside autocast: keep the module in float32 or float64.

    Args:
        student_shapes: (c, h, w) of the student's maps, of any number of layers.
        teacher_shapes: (c, h, w) of the teacher's maps, of any number of layers.
        batch_size: B >= 8: of fewer than 8, queries are single numbers of length 1, and nothing is learnt.

    Raises:
        ValueError: no layer on one side, or a smaller batch.

    >>> semckd = SemCKD([(2, 4, 4)], [(3, 2, 2), (3, 4, 4)], batch_size=8)
    >>> for regressor in semckd.regressors:
    ...     _ = nn.init.zeros_(regressor[-1].weight)  # predicts 0
    >>> teachers = [torch.full((8, 3, 2, 2), 3.0), torch.full((8, 3, 4, 4), 3.0)]
    >>> round(semckd([torch.randn(8, 2, 4, 4)], teachers).item(), 4)  # 3^2, whatever the attention
    9.0
    """

    def __init__(
        self,
        student_shapes: Sequence[tuple[int, int, int]],
        teacher_shapes: Sequence[tuple[int, int, int]],
        batch_size: int,
    ) -> None:
        super().__init__()
        if not student_shapes or not teacher_shapes or batch_size < 8:
            layers = f"{len(student_shapes)} student and {len(teacher_shapes)} teacher layers, batches of {batch_size}"
            raise ValueError(f"SemCKD: {layers}; it takes at least 1, 1 and 8")
        self.batch_size = batch_size
        self.student_shapes, self.teacher_shapes = list(student_shapes), list(teacher_shapes)
        self.queries = nn.ModuleList(_perceptron(batch_size) for _ in student_shapes)
        self.keys = nn.ModuleList(_perceptron(batch_size) for _ in teacher_shapes)
        self.regressors = nn.ModuleList(
            _regressor(student[0], teacher[0]) for student in student_shapes for teacher in teacher_shapes
        )

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """The loss; gradient to the student's maps, the perceptrons and the regressors.

        Args:
            students: maps (B, c, h, w) of the student's layers, any float type.
            teachers: maps (B, c, h, w) of the teacher's layers, of the same samples, in the same order; constants here.

        Returns:
            () float32 or better, at least 0.

        Raises:
            ValueError: another number of maps, a map of another shape, or another batch size.
        """
        self._require_shapes("student", students, self.student_shapes)
        self._require_shapes("teacher", teachers, self.teacher_shapes)
        dtype = next(self.parameters()).dtype
        with torch.autocast(students[0].device.type, enabled=False):
            students = [maps.to(dtype) for maps in students]
            teachers = [maps.detach().to(dtype) for maps in teachers]
            attention = self._attention(students, teachers)  # (B, n_s, n_t)
            pairs = [(student, teacher) for student in students for teacher in teachers]
            errors = [_error(regressor, *pair) for regressor, pair in zip(self.regressors, pairs, strict=True)]
            by_pair = torch.stack(errors, dim=1).view_as(attention)  # (B, n_s, n_t)
            return (attention * by_pair).sum(2).mean()

    def _attention(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """(B, n_s, n_t), of each sample and student layer a distribution over the teacher's layers."""
        queries = torch.stack([_embed(*pair) for pair in zip(self.queries, students, strict=True)], dim=1)  # (B, n_s, B // 4)
        keys = torch.stack([_embed(*pair) for pair in zip(self.keys, teachers, strict=True)], dim=1)  # (B, n_t, B // 4)
        return F.softmax(queries @ keys.transpose(1, 2), dim=2)

    def _require_shapes(self, role: str, maps: Sequence[Tensor], shapes: Sequence[tuple[int, int, int]]) -> None:
        """Refuse other maps than the module was made for, with the cure for the usual cause."""
        if len(maps) != len(shapes):
            raise ValueError(f"SemCKD: {len(maps)} {role} maps; made for {len(shapes)}")
        for layer, (tensor, shape) in enumerate(zip(maps, shapes, strict=True)):
            require_shape(f"SemCKD: {role} map {layer}", tensor, "B", *shape)
            if len(tensor) != self.batch_size:
                made = f"made for batches of {self.batch_size}, this one has {len(tensor)}"
                raise ValueError(f"SemCKD: {made}: drop the last batch (drop_last=True)")


def _perceptron(batch_size: int) -> nn.Sequential:
    """From a row of a Gram matrix (B) to a query or key (B // 4)."""
    width = batch_size // 4
    return nn.Sequential(nn.Linear(batch_size, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


def _regressor(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """From a student layer's channels to a teacher layer's."""
    mid = 2 * teacher_channels
    return nn.Sequential(
        nn.Conv2d(student_channels, mid, 1, bias=False),
        nn.BatchNorm2d(mid),
        nn.ReLU(),
        nn.Conv2d(mid, mid, 3, padding=1, bias=False),
        nn.BatchNorm2d(mid),
        nn.ReLU(),
        nn.Conv2d(mid, teacher_channels, 1, bias=False),
    )


def _embed(perceptron: nn.Module, maps: Tensor) -> Tensor:
    """Maps (B, c, h, w) to their samples' queries or keys (B, B // 4) of length 1."""
    rows = maps.flatten(1)  # (B, chw)
    return F.normalize(perceptron(rows @ rows.T), dim=1)


def _error(regressor: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of each sample, (B,)."""
    student, teacher = match_spatial(student, teacher)
    difference: Tensor = regressor(student) - teacher  # (B, c_t, h, w)
    return difference.square().flatten(1).mean(1)
