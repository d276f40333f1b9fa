"""What a deployment shows of its rounds while it runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from flwr.serverapp import Grid

from fedkd.experiment.experiment import Experiment
from fedkd.experiment.registry import name_of
from fedkd.grids import JobGrid
from fedkd.results.round_lines import Display, PlainLines


def shown(experiment: Experiment, grid: Grid, out: str) -> AbstractContextManager[Display]:
    """What shows each row and how far a round is. What a deployment's ServerApp prints is what ``flwr run --stream`` shows."""
    if isinstance(grid, JobGrid):
        return nullcontext(Display())
    name = name_of(type(experiment.strategy))
    return PlainLines(f"{name}: {experiment.data.clients} clients, {out or 'no files, as out is empty'}", experiment.rounds)
