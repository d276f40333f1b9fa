"""Factor transfer: Kim et al. 2018, arXiv 1802.04977. A paraphraser of the teacher, then a translator of the student."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.base.errors import unknown
from fedkd.losses.shapes import require_shape
from fedkd.losses.spatial import match_spatial


class FactorTransfer(nn.Module):
    """The student's factors, which a translator makes of its map, imitate those that a paraphraser makes of the teacher's.

    Stage one trains the paraphraser, an auto-encoder of three convolutions and three transposed ones, without a student, with
    ``reconstruction_loss``. Stage two, ``forward``, keeps it fixed and trains the student with the translator, three
    convolutions. All are 3x3 with LeakyReLU of slope 0.1; factors have ``rate`` times the teacher's channels::

        loss = mean | n(translator(f_s)) - n(paraphraser(f_t)) |

    ==============  ====================================  ==============  ===================  ===================
    preset          n(F), of length 1 for each sample     mean over       reconstruction       translator
    ==============  ====================================  ==============  ===================  ===================
    repdistiller    mean_c F^2, flattened                 B, h, w         mean squared error   with BatchNorm
    official        F, flattened                          B, c, h, w      mean absolute error  without
    ==============  ====================================  ==============  ===================  ===================

    The larger of the factors is averaged down to the smaller, which the official code does not need. Computed in the
    parameters' type, outside autocast: keep the module in float32 or float64.

    Args:
        student_channels: c of the student's maps.
        teacher_channels: c of the teacher's maps.
        rate: channels of the factors over the teacher's, in 0 .. 1; rounded down (by the official code, to the nearest).
        preset: "repdistiller" or "official".

    Raises:
        ValueError: a rate that leaves no channel.
        InputError: an unknown preset.

    >>> transfer, maps = FactorTransfer(4, 4, preset="official"), torch.ones(1, 4, 2, 2)
    >>> _ = transfer.translator.load_state_dict(transfer.paraphraser.state_dict())
    >>> transfer(maps, maps).item()  # equal maps, equal factors
    0.0
    """

    def __init__(
        self, student_channels: int, teacher_channels: int, *, rate: float = 0.5, preset: str = "repdistiller"
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise unknown("FactorTransfer: preset", preset, PRESETS)
        factors = int(teacher_channels * rate)
        if factors < 1:
            raise ValueError(f"FactorTransfer: a rate of {rate} leaves no channel of {teacher_channels}")
        self.preset = PRESETS[preset]
        self.student_channels, self.teacher_channels = student_channels, teacher_channels
        self.paraphraser = _layers(nn.Conv2d, [teacher_channels, teacher_channels, factors, factors])
        self.decoder = _layers(nn.ConvTranspose2d, [factors, factors, teacher_channels, teacher_channels])
        widths = [student_channels, student_channels, factors, factors]
        self.translator = _layers(nn.Conv2d, widths, normalise=self.preset.normalise)

    def reconstruction_loss(self, teacher: Tensor) -> Tensor:
        """Stage one: the error of the decoder's map; gradient to paraphraser and decoder.

        Args:
            teacher: (B, c_t, h, w) maps, any float type; a constant here.

        Returns:
            () float32 or better, at least 0.

        Raises:
            ValueError: another number of channels.
        """
        require_shape("FactorTransfer: teacher", teacher, "B", self.teacher_channels, "h", "w")
        with torch.autocast(teacher.device.type, enabled=False):
            target = teacher.detach().to(self._dtype)
            return self.preset.reconstruction(self.decoder(self.paraphraser(target)), target)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Stage two: the distance of the factors; gradient to the student and the translator, none to the paraphraser.

        Args:
            student: (B, c_s, h, w) maps, any float type.
            teacher: (B, c_t, h', w') of the same samples, in the same order; a constant here.

        Returns:
            () float32 or better, at least 0.

        Raises:
            ValueError: another number of channels or samples.
        """
        require_shape("FactorTransfer: student", student, "B", self.student_channels, "h", "w")
        require_shape("FactorTransfer: teacher", teacher, len(student), self.teacher_channels, "h", "w")
        with torch.autocast(student.device.type, enabled=False):
            with torch.no_grad():
                target = self.paraphraser(teacher.to(self._dtype))  # (B, c, h', w')
            own, target = match_spatial(self.translator(student.to(self._dtype)), target)  # (B, c, h, w) both
            return F.l1_loss(_unit(self.preset.factor(own)), _unit(self.preset.factor(target)))

    @property
    def _dtype(self) -> torch.dtype:
        """What the module computes in."""
        return next(self.parameters()).dtype


def _layers(
    layer: type[nn.Conv2d] | type[nn.ConvTranspose2d], channels: list[int], *, normalise: bool = False
) -> nn.Sequential:
    """3x3 layers between the given channels, each followed by LeakyReLU."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers.append(layer(before, after, 3, padding=1))
        if normalise:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers)


def _unit(factor: Tensor) -> Tensor:
    """Of length 1 for each sample, flattened."""
    return F.normalize(factor.flatten(1), dim=1)


def _energy(factor: Tensor) -> Tensor:
    """Mean square over channels: (B, c, h, w) -> (B, h, w)."""
    return factor.square().mean(1)


def _whole(factor: Tensor) -> Tensor:
    """The factor as it is."""
    return factor


class Preset(NamedTuple):
    """What one library computes."""

    reconstruction: Callable[[Tensor, Tensor], Tensor]
    factor: Callable[[Tensor], Tensor]
    normalise: bool


PRESETS: dict[str, Preset] = {
    "repdistiller": Preset(F.mse_loss, _energy, normalise=True),
    "official": Preset(F.l1_loss, _whole, normalise=False),
}
