"""Distillers: a distillation loss by name, fitted to a student and a teacher, for any strategy that distils."""

from fedkd.losses.distillers.distiller import Distiller, Pairing, Shown
from fedkd.losses.distillers.names import ON_LOGITS, SOFTENED, LogitLossName, LossName, logit_loss
from fedkd.losses.distillers.recipe import Recipe
from fedkd.losses.distillers.registry import DISTILLERS, recipe_named

__all__ = [
    "DISTILLERS",
    "ON_LOGITS",
    "SOFTENED",
    "Distiller",
    "LogitLossName",
    "LossName",
    "Pairing",
    "Recipe",
    "Shown",
    "logit_loss",
    "recipe_named",
]
