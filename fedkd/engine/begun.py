"""An engine that is begun before it is needed: Ray and its workers start while this process loads code, data and nets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fedkd.base.errors import InputError
from fedkd.base.garbage import collector_away
from fedkd.experiment.algorithm.sections import Engine
from fedkd.grids.app import make_grid

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from fedkd.experiment.experiment import Experiment
    from fedkd.grids import JobGrid

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


@contextmanager
def begun_early(settings: Mapping[str, Any]) -> Iterator[Mapping[Engine, JobGrid]]:
    """The engine of an [engine] section that is on Ray, begun while this process loads what a run needs; else nothing.

    A section that is not right is nothing too: who reads the whole file says what is wrong.
    """
    try:
        engine = Engine(**settings)
    except (ValidationError, InputError):
        engine = Engine()
    if engine.name != "ray":
        yield {}
        return
    loading = Thread(target=import_module, args=("fedkd.engine.one_run",), daemon=True)
    with ExitStack() as at_end:
        with collector_away():
            loading.start()
            grid = at_end.enter_context(make_grid("ray", **engine.model_dump(exclude={"name"})).begin(WORKERS_NEED))
            loading.join()
        yield {engine: grid}
