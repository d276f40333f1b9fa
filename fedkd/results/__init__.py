"""Runs on disk: directory, checkpoints, figures, report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedkd.results.checkpoint import Checkpoint
    from fedkd.results.directory import RunDirectory

__all__ = ["Checkpoint", "RunDirectory"]


def __getattr__(name: str) -> Any:
    """Load on first use, so that the command line starts without Flower."""
    if name not in __all__:
        raise AttributeError(f"module 'fedkd.results' has no attribute {name!r}")
    from fedkd.results.checkpoint import Checkpoint
    from fedkd.results.directory import RunDirectory

    return {"Checkpoint": Checkpoint, "RunDirectory": RunDirectory}[name]
