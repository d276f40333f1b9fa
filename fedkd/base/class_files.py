"""Packages of which each file is named after its one public class."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules


def find_class(package: str, path: Iterable[str], name: str) -> type:
    """The class of this name, its file loaded: that of ``fedx_rep.py`` is ``FedXRep``. AttributeError where there is none."""
    for module in iter_modules(path):
        if name != module.name and name.lower() == module.name.replace("_", ""):
            found: type = getattr(import_module(f"{package}.{module.name}"), name)
            return found
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
