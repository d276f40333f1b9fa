"""Engines: Flower ``Grid``s on which any Flower app runs in one process or on Ray, and ``run_app`` that runs one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedkd.grids.app import run_app
    from fedkd.grids.in_process import InProcessGrid
    from fedkd.grids.jobs import JobGrid
    from fedkd.grids.ray import RayGrid
    from fedkd.grids.together import TogetherGrid

__all__ = ["InProcessGrid", "JobGrid", "RayGrid", "TogetherGrid", "run_app"]

_HOMES = {"InProcessGrid": "in_process", "JobGrid": "jobs", "RayGrid": "ray", "TogetherGrid": "together", "run_app": "app"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
