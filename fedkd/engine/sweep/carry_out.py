"""Cells carried out, one after the other in this process or several at once on Ray. One that fails stops no other."""

from __future__ import annotations

import os
import resource
import sys
import time
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

from fedkd.base.errors import InputError, Notice, RunFailed
from fedkd.engine.cells import Cell
from fedkd.experiment.experiment import Experiment
from fedkd.results.environment import cores, gpus, memory
from fedkd.results.logs import read_metrics

Row = Mapping[str, Any]


@final
@dataclass(frozen=True)
class Outcome:
    """What became of a cell: done, or why not."""

    seconds: float
    failure: str = ""  # one line; empty where it is done
    traceback: str = ""  # of an error that nobody foresaw
    notices: tuple[str, ...] = ()
    peak: int = 0  # bytes of memory that its process had at most, so far


class Watcher(ABC):
    """Hears how a sweep goes."""

    @abstractmethod
    def begun(self, cell: Cell) -> None:
        """The cell is at work, or waits for cores and memory."""

    @abstractmethod
    def round(self, cell: Cell, row: Row) -> None:
        """A round of the cell is over."""

    @abstractmethod
    def ended(self, cell: Cell, outcome: Outcome) -> None:
        """The cell is done, or has failed."""


def footprint() -> int:
    """Bytes that a process like this one takes: what this one took at most, and half as much again for training.

    Cells are checked before they run, so that this one holds all libraries and the data.
    """
    return peak_memory() * 3 // 2


def peak_memory() -> int:
    """Bytes that this process had at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fitting(cells: Sequence[Cell]) -> int:
    """How many of these cells fit at once: by cores, GPUs and memory. At least one, as one must."""
    engines = [cell.experiment.engine for cell in cells]
    limits = [cores() // max(engine.num_cpus for engine in engines), memory() // max(1, footprint()), len(cells)]
    if shares := [engine.num_gpus for engine in engines if engine.num_gpus]:
        limits.append(int(len(gpus()) / max(shares)))
    return max(1, min(limits))


def carry_out(cells: Sequence[Cell], watcher: Watcher, *, jobs: int) -> dict[Path, Outcome]:
    """Run cells, or what is left of them, ``jobs`` at once; what became of each, by its directory.

    With one job each cell runs in this process, on the experiment's own engine. With several each is a task of Ray, whose
    processes are used again, and its clients run there one after the other: every engine gives the same results.

    Raises:
        InputError: so many do not fit.
    """
    if jobs == 1 or len(cells) == 1:
        return _one_by_one(cells, watcher)
    return _side_by_side(cells, watcher, min(jobs, len(cells)))


def _one_by_one(cells: Sequence[Cell], watcher: Watcher) -> dict[Path, Outcome]:
    outcomes = {}
    for cell in cells:
        watcher.begun(cell)
        outcomes[cell.out] = run_to_end(cell, None, partial(watcher.round, cell))
        watcher.ended(cell, outcomes[cell.out])
    return outcomes


def _side_by_side(cells: Sequence[Cell], watcher: Watcher, jobs: int) -> dict[Path, Outcome]:
    from fedkd.grids.side_by_side import Begun, Call, Ended, side_by_side

    here, least = os.getcwd(), footprint()
    calls = [
        Call((here, cell.experiment.to_tables(), str(cell.out.absolute())), engine.num_cpus, engine.num_gpus)
        for cell in cells
        for engine in [cell.experiment.engine]
    ]
    address = cells[0].experiment.engine.address
    outcomes: dict[Path, Outcome] = {}
    seen: dict[int, int] = {}  # number of a cell at work -> how many of its rows were told
    began: dict[int, float] = {}

    def memory_of_one() -> int:
        return max([least, *(outcome.peak for outcome in outcomes.values())])

    for event in side_by_side(run_elsewhere, calls, jobs=jobs, memory=memory_of_one, address=address):
        if isinstance(event, Begun):
            seen[event.call], began[event.call] = len(_rows(cells[event.call])), time.monotonic()
            watcher.begun(cells[event.call])
        for number in seen:
            rows = _rows(cells[number])
            for row in rows[seen[number] :]:
                watcher.round(cells[number], row)
            seen[number] = max(seen[number], len(rows))
        if isinstance(event, Ended):
            cell, seconds = cells[event.call], time.monotonic() - began[event.call]
            del seen[event.call]
            died = Outcome(seconds, f"its process died: {event.death}")
            outcomes[cell.out] = died if event.death else event.value
            watcher.ended(cell, outcomes[cell.out])
    return outcomes


def _rows(cell: Cell) -> list[dict[str, Any]]:
    """The rows that a cell has written so far."""
    with suppress(InputError):
        return read_metrics(cell.out)
    return []


def run_elsewhere(here: str, tables: Mapping[str, Any], out: str) -> Outcome:
    """Run a cell in another process, as in the directory ``here``, where the user's own modules and data are found."""
    try:
        os.chdir(here)
        cell = Cell(Experiment.from_values(tables), Path(out))
    except (InputError, OSError) as error:
        return Outcome(0.0, str(error))
    return run_to_end(cell, "in-process", None)


def run_to_end(cell: Cell, engine: str | None, on_round: Callable[[dict[str, Any]], None] | None) -> Outcome:
    """Run a cell, whatever becomes of it. Only who breaks it off is heard: KeyboardInterrupt passes."""
    began, failure, trace = time.monotonic(), "", ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Notice)
        try:
            cell.run(engine, on_round=on_round)
        except (InputError, RunFailed) as error:
            failure = str(error)
        except Exception as error:
            failure, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
    notices = dict.fromkeys(str(each.message) for each in caught if issubclass(each.category, Notice))
    return Outcome(time.monotonic() - began, " ".join(failure.split()), trace, tuple(notices), peak_memory())
