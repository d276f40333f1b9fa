"""Every distiller by name. A loss of one's own: ``"my_module:loss"`` in a file, or its Recipe added to ``DISTILLERS``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from fedkd.base.errors import InputError, unknown
from fedkd.base.user_code import import_object
from fedkd.losses.distillers.map_recipes import MAP_RECIPES
from fedkd.losses.distillers.recipe import Recipe
from fedkd.losses.distillers.vector_recipes import VECTOR_RECIPES

_SHIPPED: Mapping[str, Recipe] = MappingProxyType({**VECTOR_RECIPES, **MAP_RECIPES})
DISTILLERS: dict[str, Recipe] = dict(_SHIPPED)


def recipe_named(name: str) -> Recipe:
    """The recipe of that name. Raises InputError where there is none.

    ``"my_module:loss"`` names a Recipe, or a function ``(student, teacher, *, options) -> scalar`` of logits (B, C).

    >>> sorted(recipe_named("dkd").needs), recipe_named("at").weight
    (['labels', 'logits'], 1000.0)
    """
    if ":" in name:
        return _recipe_of(name, import_object(name))
    if name not in DISTILLERS:
        raise unknown("loss", name, DISTILLERS, cure='; or "my_module:loss"')
    return DISTILLERS[name]


def added() -> dict[str, Recipe]:
    """The recipes that are none of fedkd's own."""
    return {name: recipe for name, recipe in DISTILLERS.items() if _SHIPPED.get(name) is not recipe}


def _recipe_of(name: str, given: object) -> Recipe:
    if isinstance(given, Recipe):
        return given
    if not callable(given) or inspect.isclass(given):
        raise InputError(f"loss {name!r} is a {type(given).__name__}: not a Recipe, nor a function (student, teacher) -> loss")
    return replace(_SHIPPED["kd"], loss=given, weight=1.0)
