"""Modules by names that they had before: scripts that import them go on working, and are told the new name."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, final

EARLIER = {"fedkd.contrastive": "fedkd.methods.contrastive", "fedkd.distillers": "fedkd.losses.distillers"}


@final
class EarlierNames(MetaPathFinder, Loader):
    """Finds a module that has moved, which is then known by both names."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """A spec of a module under one of ``EARLIER``; None of any other."""
        return ModuleSpec(fullname, self) if _name_now(fullname) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself, with a DeprecationWarning."""
        now = _name_now(spec.name)
        warnings.warn(f"{spec.name} is called {now} now", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(now)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already; its spec stays that of its new name."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def know_earlier_names() -> None:
    """Ask this finder first, in this process: others would load the files below a package of two names twice."""
    if not any(isinstance(finder, EarlierNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, EarlierNames())


def _name_now(fullname: str) -> str:
    """The new name of a module; empty where it never had another."""
    for earlier, now in EARLIER.items():
        if fullname == earlier or fullname.startswith(f"{earlier}."):
            return now + fullname.removeprefix(earlier)
    return ""
