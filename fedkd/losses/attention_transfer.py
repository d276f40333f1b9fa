"""Attention transfer, AT: Zagoruyko and Komodakis 2016, arXiv 1612.03928."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedkd.base.errors import unknown
from fedkd.losses.rows import unit_rows
from fedkd.losses.spatial import maps_of_one_size


def at_loss(student: Tensor, teacher: Tensor, *, p: float = 2.0, preset: str = "repdistiller") -> Tensor:
    """How differently student and teacher look at an image: the distance of their attention maps::

        a(f) = mean_c |f|^p, flattened to (B, h * w), each row divided by its 2-norm

    The paper sums over channels: the norm takes the difference away. The presets are what libraries compute::

        repdistiller    mean_b mean_hw (a_s - a_t)^2          also the authors' code, mdistiller, torchdistill's default
        paper           mean_b sqrt(sum_hw (a_s - a_t)^2)     the unsquared norm of equation 2; torchdistill's mode "paper"
        kd_lib          mean_b mean_chw |a_s - a_t|^p         its a is |f|^p with its channels, (B, c * h * w): no map of where

    The larger map is first averaged down to the smaller; channels may differ, but under kd_lib. A positive scale of either map
    and, but under kd_lib, the order of channels change nothing. Where p is odd the libraries take f^p, which is |f|^p on maps
    after a ReLU. The gradient reaches the student only; a map that is all zeros, and under "paper" a pair of equal attention
    maps, gets none.

    Args:
        student: (B, c, h, w) maps, any float type; computed in float32 or better, outside autocast.
        teacher: (B, c', h', w'), the same samples in the same order; a constant here.
        p: at least 1; the larger, the more the strongest channels count.
        preset: "repdistiller", "paper" or "kd_lib".

    Returns:
        () float32 or better, at least 0; repdistiller at most 2 / hw, paper at most sqrt 2.

    Raises:
        ValueError: an argument is not (B, c, h, w), the batches differ in size, or p < 1; under kd_lib, the channels differ.
        InputError: an unknown preset.

    >>> student, teacher = torch.tensor([[[[3.0, 0.0]]]]).sqrt(), torch.tensor([[[[3.0, 4.0]]]]).sqrt()
    >>> round(at_loss(student, teacher).item(), 4)  # a: (1, 0) and (0.6, 0.8), so (0.16 + 0.64) / 2
    0.4
    >>> round(at_loss(student, teacher, preset="paper").item(), 4)  # sqrt(0.16 + 0.64)
    0.8944
    """
    if preset not in PRESETS:
        raise unknown("at_loss: preset", preset, PRESETS)
    if p < 1:
        raise ValueError(f"at_loss: p is {p}; expected at least 1, below which |f|^p has no gradient at 0")
    with torch.autocast(student.device.type, enabled=False):
        pair = maps_of_one_size("at_loss", student, teacher)
        if preset == "kd_lib" and pair[0].shape != pair[1].shape:
            channels = f"{student.shape[1]} and {teacher.shape[1]}"
            raise ValueError(f"at_loss: preset 'kd_lib' compares channel with channel, and student and teacher have {channels}")
        attention, distance = PRESETS[preset]
        of_student, of_teacher = (attention(maps, p) for maps in pair)  # (B, h * w), or (B, c * h * w)
        return distance(of_student - of_teacher, p)


def _energies(maps: Tensor, p: float) -> Tensor:
    """|f|^p up to a scale for each sample, which cancels; but 1e4 ** 10 would not be finite. (B, c, h, w)"""
    largest = maps.detach().abs().amax((1, 2, 3), keepdim=True)
    return (maps / largest.clamp(min=torch.finfo(maps.dtype).tiny)).abs().pow(p)


def _attention(maps: Tensor, p: float) -> Tensor:
    """Where the activations are, rows of length 1: (B, c, h, w) -> (B, h * w)."""
    return unit_rows(_energies(maps, p).mean(1).flatten(1))


def _activity(maps: Tensor, p: float) -> Tensor:
    """Where, and in which channel: (B, c, h, w) -> (B, c * h * w), rows of length 1."""
    return unit_rows(_energies(maps, p).flatten(1))


def _mean_square(difference: Tensor, p: float) -> Tensor:
    """Mean over B * h * w: (B, h * w) -> ()."""
    return difference.square().mean()


def _mean_length(difference: Tensor, p: float) -> Tensor:
    """Mean over the batch of the rows' lengths: (B, h * w) -> ()."""
    length: Tensor = torch.linalg.vector_norm(difference, dim=1)  # (B,)
    return length.mean()


def _mean_power(difference: Tensor, p: float) -> Tensor:
    """Mean over B * c * h * w of the absolute p-th power: (B, c * h * w) -> ()."""
    return difference.abs().pow(p).mean()


Step = Callable[[Tensor, float], Tensor]
#: By name: what is made of maps, and how two such are compared.
PRESETS: dict[str, tuple[Step, Step]] = {
    "repdistiller": (_attention, _mean_square),
    "paper": (_attention, _mean_length),
    "kd_lib": (_activity, _mean_power),
}
