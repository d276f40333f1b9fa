"""The examples in docstrings run as they are printed: found by looking, in all of fedkd and its strategies."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedkd


def with_examples() -> Iterator[str]:
    """The modules that hold any; they are read, and none is imported for it but packages."""

    def stop(name: str) -> None:
        raise ImportError(f"{name} cannot be imported, and its examples would not be found")

    for module in pkgutil.walk_packages(fedkd.__path__, "fedkd.", onerror=stop):
        spec = importlib.util.find_spec(module.name)
        if spec and spec.origin and ">>> " in Path(spec.origin).read_text(encoding="utf-8"):
            yield module.name


@pytest.mark.parametrize("name", sorted(with_examples()))
def test_the_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted and not results.failed
