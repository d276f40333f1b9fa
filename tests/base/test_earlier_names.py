"""Modules that have moved are found by the names that they had."""

import importlib

import pytest

from fedkd.base.earlier_names import EARLIER


@pytest.mark.parametrize("earlier", EARLIER)
def test_the_earlier_name_is_the_same_module_and_says_the_new_one(earlier: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"^{earlier} is called {EARLIER[earlier]} now$"):
        found = importlib.import_module(earlier)
    now = importlib.import_module(EARLIER[earlier])
    assert found is now
    assert now.__spec__ is not None and now.__spec__.name == EARLIER[earlier]


def test_what_lies_inside_it_too() -> None:
    with pytest.warns(DeprecationWarning):
        recipe = importlib.import_module("fedkd.distillers.recipe")
    from fedkd.losses.distillers.recipe import Recipe

    assert recipe.Recipe is Recipe
    assert Recipe.__module__ == "fedkd.losses.distillers.recipe"
