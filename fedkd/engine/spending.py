"""What a run takes of the machine: seconds of its processors, and their joules where the kernel counts them."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self, final

from flwr.serverapp import Grid

from fedkd.base.energy import Energy
from fedkd.grids.jobs import JobGrid


@final
class Spending:
    """Sums by the keys of a row. On other grids than ours there are none: their clients are elsewhere.

    Inside ``with`` energy is watched, so that rounds may be as long as they like.
    """

    def __init__(self, grid: Grid, energy: Energy | None = None) -> None:
        self._grid = grid if isinstance(grid, JobGrid) else None
        #: None where clients are at work on other machines too, whose energy nobody counts here.
        self._energy = (energy or Energy()) if self._grid and self._grid.on_this_machine else None

    def so_far(self) -> dict[str, float]:
        """User and system seconds of this process and of those that the grid has started; joules of all processor packages."""
        if self._grid is None:
            return {}
        joules = self._energy.joules() if self._energy else None
        spent = {"cpu_seconds": time.process_time() + self._grid.cpu_seconds}
        return spent if joules is None else {**spent, "joules": joules}

    def __enter__(self) -> Self:
        if self._energy:
            self._energy.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._energy:
            self._energy.__exit__(kind, error, at)
