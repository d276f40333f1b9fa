"""An engine that is begun before it is needed: workers of Ray start while this process loads data and nets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.serverapp import Grid

from fedkd.experiment.experiment import Experiment
from fedkd.grids import JobGrid
from fedkd.grids.app import make_grid

#: What each worker loads at once: our clients need it, and torch alone takes 2 s.
WORKERS_NEED = ("torch", "fedkd.engine.app")


@contextmanager
def begun(engine: str | Grid, experiment: Experiment) -> Iterator[JobGrid]:
    """The experiment's engine, if this is its name; a grid as it is. One that is made here is closed at the end."""
    grid = make_grid(engine, **experiment.engine.model_dump(exclude={"name"}))
    if grid is engine:
        yield grid
        return
    with grid.begin(WORKERS_NEED):
        yield grid
