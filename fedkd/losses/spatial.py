"""Feature maps of student and teacher brought together: what a loss on maps asks of its arguments."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32
from fedkd.losses.shapes import require_shape

Pool = Callable[[Tensor, tuple[int, int]], Tensor]


def match_spatial(student: Tensor, teacher: Tensor, *, pool: Pool = F.adaptive_avg_pool2d) -> tuple[Tensor, Tensor]:
    """Two maps at one size, the smaller height and the smaller width: the larger map is averaged down.

    Channels may differ and stay. A map that has the size already is returned as it is. Gradient through both.

    Args:
        student: (B, c, h, w) maps.
        teacher: (B, c', h', w').
        pool: what makes a map (B, c, h, w) smaller, of the map and a size; the average over adaptive windows by default.

    Returns:
        (B, c, min(h, h'), min(w, w')) and (B, c', min(h, h'), min(w, w')).

    >>> import torch
    >>> small, large = torch.zeros(1, 3, 1, 1), torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    >>> match_spatial(small, large)[1].tolist()
    [[[[3.0]]]]
    """
    height = min(student.shape[2], teacher.shape[2])
    width = min(student.shape[3], teacher.shape[3])
    one, other = (maps if maps.shape[2:] == (height, width) else pool(maps, (height, width)) for maps in (student, teacher))
    return one, other


def maps_of_one_size(name: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 or better, the teacher detached, at one size; channels may differ. ``name`` is the loss that asks.

    >>> import torch
    >>> student, teacher = maps_of_one_size("example", torch.zeros(2, 3, 4, 4).bfloat16(), torch.zeros(2, 5, 2, 8))
    >>> tuple(student.shape), tuple(teacher.shape), student.dtype
    ((2, 3, 2, 4), (2, 5, 2, 4), torch.float32)
    """
    require_shape(f"{name}: student", student, "B", "c", "h", "w")
    require_shape(f"{name}: teacher", teacher, len(student), "c", "h", "w")
    return match_spatial(at_least_float32(student), at_least_float32(teacher.detach()))


def maps_of_one_shape(name: str, student: Tensor, teacher: Tensor, *, cure: str) -> tuple[Tensor, Tensor]:
    """Both in float32 or better, the teacher detached; torch would broadcast unequal shapes to a wrong value.

    >>> import torch
    >>> maps_of_one_shape("example", torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4), cure="pad the student's")
    Traceback (most recent call last):
    ValueError: example: the shapes of student and teacher differ, (2, 3, 4, 4) and (2, 5, 4, 4): pad the student's
    """
    if student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"{name}: the shapes of student and teacher differ, {shapes}: {cure}")
    return at_least_float32(student), at_least_float32(teacher.detach())
