"""Every distiller by name. A loss of one's own: add its Recipe to ``DISTILLERS``."""

from __future__ import annotations

from fedkd.distillers.map_recipes import MAP_RECIPES
from fedkd.distillers.recipe import Recipe
from fedkd.distillers.vector_recipes import VECTOR_RECIPES
from fedkd.errors import unknown

DISTILLERS: dict[str, Recipe] = {**VECTOR_RECIPES, **MAP_RECIPES}


def recipe_named(name: str) -> Recipe:
    """The recipe of that name. Raises InputError where there is none.

    >>> sorted(recipe_named("dkd").needs), recipe_named("at").weight
    (['labels', 'logits'], 1000.0)
    """
    if name not in DISTILLERS:
        raise unknown("loss", name, DISTILLERS)
    return DISTILLERS[name]
