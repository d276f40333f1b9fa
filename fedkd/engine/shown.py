"""What a deployment shows of its rounds while it runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from flwr.serverapp import Grid

from fedkd.experiment.experiment import Experiment
from fedkd.experiment.registry import name_of
from fedkd.grids import JobGrid
from fedkd.results.round_lines import OnRow, plain_lines


def shown(experiment: Experiment, grid: Grid, out: str) -> AbstractContextManager[OnRow]:
    """What to call with each row. What a deployment's ServerApp prints is what ``flwr run --stream`` shows."""
    if isinstance(grid, JobGrid):
        return nullcontext(lambda row: None)
    name = name_of(type(experiment.strategy))
    return plain_lines(f"{name}: {experiment.data.clients} clients, {out or 'no files, as out is empty'}", experiment.rounds)
