"""Distillers: a distillation loss by name, fitted to a student and a teacher, for any strategy that distils."""

from fedkd.distillers.distiller import Distiller, Pairing, Shown
from fedkd.distillers.names import LogitLossName, LossName, logit_loss
from fedkd.distillers.recipe import Recipe
from fedkd.distillers.registry import DISTILLERS, recipe_named

__all__ = [
    "DISTILLERS",
    "Distiller",
    "LogitLossName",
    "LossName",
    "Pairing",
    "Recipe",
    "Shown",
    "logit_loss",
    "recipe_named",
]
