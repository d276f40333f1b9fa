"""Recipes of losses on feature maps, with the connectors that take a student's map to the shape of its partner."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import final

from torch import Tensor, nn

from fedkd import losses
from fedkd.base.errors import InputError
from fedkd.losses.distillers.distiller import Distiller, Pairing
from fedkd.losses.distillers.on_maps import Connected, OnAllMaps, OnMaps, OnNeighbours
from fedkd.losses.distillers.recipe import Recipe

Loss = Callable[..., Tensor]
Module = Callable[..., nn.Module]


def _shape(held: Tensor) -> tuple[int, int, int]:
    channels, height, width = held.shape[1:]
    return channels, height, width


def _regressor(own: Tensor, taught: Tensor) -> nn.Module:
    return losses.ConvolutionalRegressor(_shape(own), _shape(taught))


def _joint(own: Tensor, taught: Tensor) -> nn.Module:
    """Nothing where the shapes agree."""
    return losses.BoundaryConnector(_shape(own), _shape(taught))


def _as_they_are(loss: Loss, pairing: Pairing) -> Distiller:
    return OnMaps(pairing, lambda own, taught: Connected(loss, nn.Identity()))


def _deepest(loss: Loss, pairing: Pairing) -> Distiller:
    return OnMaps(pairing, lambda own, taught: Connected(loss, nn.Identity()), deepest=True)


def _hint(loss: Loss, pairing: Pairing) -> Distiller:
    return OnMaps(pairing, lambda own, taught: Connected(loss, _regressor(own, taught)), deepest=True)


def _boundary(loss: Loss, pairing: Pairing) -> Distiller:
    return OnMaps(pairing, lambda own, taught: Connected(loss, _joint(own, taught)), before_relu=True, halving=True)


def _channels(loss: Loss, pairing: Pairing) -> Distiller:
    return OnMaps(pairing, lambda own, taught: Connected(loss, _joint(own, taught)))


def _overhaul(loss: Loss, pairing: Pairing) -> Distiller:
    """The margin of a channel is the mean of the teacher's own negative responses, as the paper defines it."""

    def term(own: Tensor, taught: Tensor) -> nn.Module:
        off = taught < 0
        margin = taught.where(off, 0).sum((0, 2, 3)) / off.sum((0, 2, 3)).clamp_min(1)  # (c,)
        same = own.shape[2:] == taught.shape[2:]
        connector = losses.OverhaulConnector(_shape(own), _shape(taught)) if same else _joint(own, taught)
        return Connected(partial(loss, margin=margin), connector)

    return OnMaps(pairing, term, before_relu=True, halving=True)


def _neighbours(loss: Loss, pairing: Pairing) -> Distiller:
    return OnNeighbours(pairing, loss, _joint)


def _by_channels(make: Module, pairing: Pairing) -> Distiller:
    return OnMaps(pairing, lambda own, taught: make(own.shape[1], taught.shape[1]))


@final
class FactorTerm(nn.Module):
    """Factor transfer whose paraphraser is trained along with the student, instead of for 30 epochs beforehand."""

    def __init__(self, module: losses.FactorTransfer) -> None:
        super().__init__()
        self.module = module

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The factors' distance, and the paraphraser's reconstruction loss, which the student does not feel. ()"""
        loss: Tensor = self.module(student, teacher)
        return loss + self.module.reconstruction_loss(teacher)


def _factors(make: Callable[..., losses.FactorTransfer], pairing: Pairing) -> Distiller:
    return OnMaps(pairing, lambda own, taught: FactorTerm(make(own.shape[1], taught.shape[1])), deepest=True)


def _reviewed(make: Module, pairing: Pairing) -> Distiller:
    return OnAllMaps(pairing, make, partnered=True)


def _semantic(make: Module, pairing: Pairing) -> Distiller:
    size = min(pairing.batch_size, len(pairing.ids))
    if size < 8:
        raise InputError(
            f"semckd takes batches of at least 8 samples, and these have {size}: raise train.batch_size, or data.public"
        )
    return OnAllMaps(pairing, lambda own, taught: make(own, taught, size), partnered=False, batch_size=size)


_MAPS, _WHOLE = frozenset({"maps"}), frozenset({"maps", "whole batch"})

MAP_RECIPES: dict[str, Recipe] = {
    "hint": Recipe(losses.hint_loss, _hint, _MAPS, weight=100.0),
    "at": Recipe(losses.at_loss, _as_they_are, _MAPS, weight=1000.0),
    "sp": Recipe(losses.sp_loss, _deepest, _WHOLE, weight=3000.0),
    "nst": Recipe(losses.nst_loss, _as_they_are, _MAPS, weight=50.0),
    "fsp": Recipe(losses.fsp_loss, _neighbours, _MAPS, weight=50.0),
    "ab": Recipe(losses.ab_loss, _boundary, _MAPS, weight=0.003),
    "ofd": Recipe(losses.ofd_loss, _overhaul, _MAPS, weight=0.001),
    "kdsvd": Recipe(losses.kdsvd_loss, _neighbours, _MAPS),
    "cwd": Recipe(losses.cwd_loss, _channels, _MAPS),
    "vid": Recipe(losses.VIDLoss, _by_channels, _MAPS),
    "factor_transfer": Recipe(losses.FactorTransfer, _factors, _MAPS, weight=200.0),
    "review": Recipe(losses.ReviewKD, _reviewed, _MAPS),
    "semckd": Recipe(losses.SemCKD, _semantic, _WHOLE, weight=400.0),
}
