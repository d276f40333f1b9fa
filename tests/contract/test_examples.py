"""The examples in the docstrings of strategies, and of what they share, run as they are printed: found by looking."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import fedkd.methods
import fedkd.strategies


def with_examples() -> Iterator[str]:
    """The modules that hold any."""
    for package in (fedkd.methods, fedkd.strategies):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if any(found.examples for found in doctest.DocTestFinder().find(importlib.import_module(module.name))):
                yield module.name


@pytest.mark.parametrize("name", sorted(with_examples()))
def test_the_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted and not results.failed
