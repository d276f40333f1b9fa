"""Recipes of losses on logits, on gradients of logits and on features."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fedkd import losses
from fedkd.losses.distillers.distiller import Distiller, OnFeatures, OnGradients, OnLabels, OnLogits, Pairing
from fedkd.losses.distillers.on_memory import OnBanks, OnQueue
from fedkd.losses.distillers.recipe import Recipe


def standardized_kd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """``kd_loss`` of standardised logits: Sun et al. 2024, arXiv 2403.01427. Arguments, result and errors as there."""
    standard = (losses.logit_standardize(logits) for logits in (student, teacher.detach()))
    return losses.kd_loss(*standard, temperature=temperature)


def rkd_loss(student: Tensor, teacher: Tensor, *, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """Both relations of RKD, weighted as in the official code; arguments, result and errors as of ``rkd_distance_loss``."""
    near, turned = losses.rkd_distance_loss(student, teacher), losses.rkd_angle_loss(student, teacher)
    return distance * near + angle * turned


def embedded_cc_loss(student: Tensor, teacher: Tensor, *, preset: str = "repdistiller") -> Tensor:
    """``cc_loss`` of two embeddings that are both trained; arguments, result and errors as there."""
    return losses.cc_loss(student, teacher, detach=False, preset=preset)


def _logits(function: Callable[..., Tensor], pairing: Pairing) -> Distiller:
    return OnLogits(function)


def _logits_and_labels(function: Callable[..., Tensor], pairing: Pairing) -> Distiller:
    return OnLogits(function, labels=True)


def _labels(function: Callable[..., Tensor], pairing: Pairing) -> Distiller:
    return OnLabels(function)


def _gradients(function: Callable[..., Tensor], pairing: Pairing) -> Distiller:
    return OnGradients(function)


def _embedded(function: Callable[..., Tensor], pairing: Pairing) -> Distiller:
    return OnFeatures(function, pairing, width=128)


_LOGITS, _LABELLED = frozenset({"logits"}), frozenset({"logits", "labels"})
_RELATIONS = frozenset({"features", "whole batch"})

VECTOR_RECIPES: dict[str, Recipe] = {
    "kd": Recipe(losses.kd_loss, _logits, _LOGITS),
    "kd_standardized": Recipe(standardized_kd_loss, _logits, _LOGITS),
    "logit_mse": Recipe(losses.logit_mse, _logits, _LOGITS, raw=True),
    "logit_mae": Recipe(losses.logit_mae, _logits, _LOGITS, raw=True),
    "dist": Recipe(losses.dist_loss, _logits, _LOGITS | {"whole batch"}, weight=2.0),
    "dkd": Recipe(losses.dkd_loss, _logits_and_labels, _LABELLED),
    "wsld": Recipe(losses.wsld_loss, _logits_and_labels, _LABELLED, weight=2.25),
    # No teacher: one made up from the labels. Its KL is a mean over elements, hence the weight (0.1 times 100 in the code).
    "tfkd_reg": Recipe(losses.tfkd_reg_loss, _labels, frozenset({"labels"}), weight=10.0),
    "jacobian": Recipe(losses.jacobian_loss, _gradients, _LABELLED | {"inputs"}),
    "pkt": Recipe(losses.pkt_loss, OnFeatures, _RELATIONS, weight=30000.0),
    "rkd": Recipe(rkd_loss, OnFeatures, _RELATIONS),
    # Both embeddings are trained, as in RepDistiller.
    "cc": Recipe(embedded_cc_loss, _embedded, _RELATIONS, weight=0.02),
    "crd": Recipe(losses.CRDLoss, OnBanks, frozenset({"features", "labels", "memory"}), weight=0.8),
    "seed": Recipe(losses.seed_loss, OnQueue, frozenset({"features", "memory"})),
}
