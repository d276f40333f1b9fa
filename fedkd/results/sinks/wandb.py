"""Weights & Biases, offline: files in ``wandb/`` of the run, for ``wandb sync``. ``WANDB_MODE=online`` sends them at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from fedkd.results.sinks.sink import About, Sink, numbers


@final
class Writer(Sink):
    """One W&B run; seeds of one experiment are a group. Nothing is measured of the machine, no code is kept."""

    needs: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "fedkd[wandb]"

    def __init__(self, about: About) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        quiet = wandb.Settings(
            silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True, save_code=False
        )
        note = about.path / "wandb" / "id"
        note.parent.mkdir(exist_ok=True)
        self._run = wandb.init(
            mode=os.environ.get("WANDB_MODE", "offline"),
            dir=about.path,
            project=os.environ.get("WANDB_PROJECT", "fedkd"),
            group=about.group,
            name=about.path.name,
            id=note.read_text().strip() if note.exists() else None,
            resume="allow",
            config=dict(about.experiment),
            settings=quiet,
        )
        note.write_text(f"{self._run.id}\n")

    def write(self, row: Mapping[str, Any], clients: Sequence[Mapping[str, Any]]) -> None:
        """One step."""
        self._run.log(numbers(row), step=row["round"])

    def close(self) -> None:
        """Write what is left, and end W&B's own process."""
        self._run.finish()
