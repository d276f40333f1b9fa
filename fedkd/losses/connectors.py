"""Connectors: layers with parameters, trained with the student, that bring its feature map to the teacher's shape."""

from __future__ import annotations

import math

from torch import Tensor, nn

from fedkd.losses.shapes import require_shape

Shape = tuple[int, int, int]
"""Channels, height and width of a map."""


class ConvolutionalRegressor(nn.Module):
    """A convolution with BatchNorm, and a ReLU unless ``relu=False``: FitNets' regressor, as RepDistiller has it.

    The convolution is the first of these that joins the sizes, height and width alike::

        student = 2 * teacher                3x3, stride 2
        2 * student = teacher                transposed 4x4, stride 2
        teacher <= student < 2 * teacher     without padding, kernel 1 + student - teacher (1x1 where the sizes agree)
        any other                            average pooling where the student is larger, nearest upsampling where it is
                                             smaller, then 1x1

    The first three are RepDistiller's. The last it does not have: it refuses smaller students, and where the student is more
    than twice as large its kernel without padding covers more than half of the map (25x25 from 32 to 8).

    Args:
        student_shape: (c, h, w) of what comes in.
        teacher_shape: (c, h, w) of what goes out.
        relu: whether the output is that of a ReLU, like the teacher's map after one.

    Raises:
        ValueError: a shape is not three positive numbers.

    >>> import torch
    >>> regressor = ConvolutionalRegressor((8, 28, 28), (16, 14, 14))
    >>> regressor(torch.zeros(2, 8, 28, 28)).shape, regressor.join.kernel_size
    (torch.Size([2, 16, 14, 14]), (3, 3))
    """

    def __init__(self, student_shape: Shape, teacher_shape: Shape, *, relu: bool = True) -> None:
        super().__init__()
        _require_shapes("ConvolutionalRegressor", student_shape, teacher_shape)
        self.student_shape = tuple(student_shape)
        self.join = _join(student_shape, teacher_shape)
        self.norm = nn.BatchNorm2d(teacher_shape[0])
        self.activation = nn.ReLU() if relu else nn.Identity()

    def forward(self, student: Tensor) -> Tensor:
        """The student's maps in the teacher's shape: (B, c, h, w) -> (B, c', h', w'); ValueError for another shape."""
        require_shape("ConvolutionalRegressor: student", student, "B", *self.student_shape)
        return self.activation(self.norm(self.join(student)))  # type: ignore[no-any-return]


class BoundaryConnector(nn.Module):
    """For maps before the ReLU: nothing where the shapes agree, else a ``ConvolutionalRegressor`` without ReLU.

    What stands before ``ab_loss``: Heo et al. 2018, arXiv 1811.03233. Arguments and errors as there.

    >>> import torch
    >>> maps = torch.ones(2, 3, 4, 4)
    >>> BoundaryConnector((3, 4, 4), (3, 4, 4))(maps) is maps
    True
    """

    def __init__(self, student_shape: Shape, teacher_shape: Shape) -> None:
        super().__init__()
        _require_shapes("BoundaryConnector", student_shape, teacher_shape)
        agree = tuple(student_shape) == tuple(teacher_shape)
        self.student_shape = tuple(student_shape)
        self.join = nn.Identity() if agree else ConvolutionalRegressor(student_shape, teacher_shape, relu=False)

    def forward(self, student: Tensor) -> Tensor:
        """The student's maps in the teacher's shape: (B, c, h, w) -> (B, c', h', w'); ValueError for another shape."""
        require_shape("BoundaryConnector: student", student, "B", *self.student_shape)
        return self.join(student)  # type: ignore[no-any-return]


class OverhaulConnector(nn.Module):
    """A 1x1 convolution without bias, and BatchNorm: what stands before ``ofd_loss``. Heo et al. 2019, arXiv 1904.01866.

    The convolution starts from N(0, 2 / c') with c' the teacher's channels, as in the authors' code.

    Args:
        student_shape: (c, h, w) of what comes in.
        teacher_shape: (c', h, w) of what goes out.

    Raises:
        ValueError: a shape is not three positive numbers, or the sizes differ.

    >>> import torch
    >>> OverhaulConnector((8, 7, 7), (16, 7, 7))(torch.zeros(2, 8, 7, 7)).shape
    torch.Size([2, 16, 7, 7])
    """

    def __init__(self, student_shape: Shape, teacher_shape: Shape) -> None:
        super().__init__()
        _require_shapes("OverhaulConnector", student_shape, teacher_shape)
        if tuple(student_shape[1:]) != tuple(teacher_shape[1:]):
            sizes = f"{tuple(student_shape[1:])} and {tuple(teacher_shape[1:])}"
            raise ValueError(f"OverhaulConnector: the sizes of student and teacher differ, {sizes}: choose layers of one size")
        self.student_shape = tuple(student_shape)
        self.join = nn.Conv2d(student_shape[0], teacher_shape[0], kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(teacher_shape[0])
        nn.init.normal_(self.join.weight, std=math.sqrt(2 / teacher_shape[0]))

    def forward(self, student: Tensor) -> Tensor:
        """The student's maps with the teacher's channels: (B, c, h, w) -> (B, c', h, w); ValueError for another shape."""
        require_shape("OverhaulConnector: student", student, "B", *self.student_shape)
        return self.norm(self.join(student))  # type: ignore[no-any-return]


def _join(student_shape: Shape, teacher_shape: Shape) -> nn.Module:
    """The convolution from one shape to the other."""
    (before, *student), (after, *teacher) = student_shape, teacher_shape
    sizes = list(zip(student, teacher, strict=True))
    if all(own == 2 * wanted for own, wanted in sizes):
        return nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1)
    if all(2 * own == wanted for own, wanted in sizes):
        return nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1)
    if all(wanted <= own < 2 * wanted for own, wanted in sizes):
        height, width = (1 + own - wanted for own, wanted in sizes)
        return nn.Conv2d(before, after, kernel_size=(height, width))
    height, width = map(min, sizes)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d((height, width)),  # changes nothing where the student is the smaller, the next where the larger
        nn.Upsample((teacher[0], teacher[1]), mode="nearest"),
        nn.Conv2d(before, after, kernel_size=1),
    )


def _require_shapes(name: str, *shapes: Shape) -> None:
    """Refuse what is not (c, h, w)."""
    for role, shape in zip(("student", "teacher"), shapes, strict=True):
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"{name}: {role}_shape is {tuple(shape)}; expected (c, h, w), each at least 1")
