"""How long the cells of a sweep will take, from those that are finished or from short trials; and how sure that is."""

from __future__ import annotations

import heapq
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from fedkd.base.errors import Notice
from fedkd.engine.cells import Cell, State
from fedkd.engine.one_run import run_once
from fedkd.experiment.experiment import Experiment
from fedkd.results.recorded import RecordedRun

#: After how many seconds no further trial is made: groups without one are taken for the mean of those tried.
TRIAL_SECONDS = 20.0
#: Rounds of a trial: the first loads what the others use.
TRIAL_ROUNDS = 2
#: By how much a trial may be wrong, either way.
DOUBT = 2.0


@final
@dataclass(frozen=True)
class Estimate:
    """Seconds until all cells are done, between which borders they are expected, and what they were found from."""

    seconds: float
    low: float
    high: float
    source: str


def estimate(cells: Mapping[Path, Cell], states: Mapping[Path, State], jobs: int) -> Estimate:
    """Estimate the time of all cells that are not done, so many side by side. Nothing is written where they are.

    A cell is expected to take what finished cells of its group (that differ in the seed alone) took, else what its trial took,
    of a cell that was stopped the share of its rounds that is left.
    """
    finished: dict[Path, list[float]] = {}
    for place, cell in cells.items():
        if states[place] is State.DONE:
            finished.setdefault(cell.out.parent, []).append(seconds_of(RecordedRun.read(place)))
    left = [cell for place, cell in cells.items() if states[place] in (State.TO_DO, State.UNFINISHED)]
    tried = trials([cell for cell in left if cell.out.parent not in finished])
    mean = _mean([*tried.values(), *(seconds for each in finished.values() for seconds in each)])
    expected: list[tuple[float, float, float]] = []  # of each cell: low, middle, high
    for cell in left:
        share = 1 - max(RecordedRun.read(cell.out).rounds_done, 0) / cell.experiment.rounds if _begun(cell, states) else 1.0
        if cell.out.parent in finished:
            known = finished[cell.out.parent]
            low, middle, high = min(known), _mean(known), max(known)
        else:
            middle = tried.get(cell.out.parent, mean)
            low, high = middle / DOUBT, middle * DOUBT
        expected.append((share * low, share * middle, share * high))
    low, middle, high = (makespan([each[place] for each in expected], jobs) for place in range(3))
    return Estimate(middle, low, high, _source(finished, tried, left))


def _begun(cell: Cell, states: Mapping[Path, State]) -> bool:
    return states[cell.out] is State.UNFINISHED


def _source(finished: Mapping[Path, Sequence[float]], tried: Mapping[Path, float], left: Sequence[Cell]) -> str:
    groups = {cell.out.parent for cell in left}
    parts = []
    if known := sum(len(each) for group, each in finished.items() if group in groups):
        parts.append(f"{known} finished cell{'s' if known > 1 else ''}")
    if tried:
        parts.append(f"{len(tried)} trial{'s' if len(tried) > 1 else ''} of {TRIAL_ROUNDS} rounds")
    if guessed := len(groups - finished.keys() - tried.keys()):
        parts.append(f"their mean for {guessed} group{'s' if guessed > 1 else ''} that nobody tried")
    return ", ".join(parts)


def seconds_of(run: RecordedRun) -> float:
    """What a finished run took: its rounds, and what it did after the last one."""
    report, metrics = (run.path / name for name in ("report.html", "metrics.jsonl"))
    after = report.stat().st_mtime - metrics.stat().st_mtime
    return sum(float(row.get("seconds") or 0) for row in run.rows) + min(max(after, 0.0), 60.0)


def trials(cells: Sequence[Cell], run: Callable[[Experiment], float] | None = None) -> dict[Path, float]:
    """Seconds that a cell of each group would take, from a trial of its first, until trials have taken long enough."""
    found: dict[Path, float] = {}
    began = time.monotonic()
    for cell in cells:
        if cell.out.parent not in found and time.monotonic() - began < TRIAL_SECONDS:
            found[cell.out.parent] = (run or trial)(cell.experiment)
    return found


def trial(experiment: Experiment) -> float:
    """Seconds that a whole run would take: two rounds of it are run, into a directory that is thrown away.

    Nothing of it goes to the experiment's sinks: a tracking server would show it as a run.
    """
    rounds = min(TRIAL_ROUNDS, experiment.rounds)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedkd-trial-") as place, warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        tables = experiment.to_tables()
        short = Experiment.from_values(tables | {"rounds": rounds, "record": {**tables["record"], "sinks": []}})
        history = run_once(short, "in-process", out=Path(place) / "run")
    whole = time.monotonic() - began
    last = float(history.metrics[-1]["seconds"])
    trained = sum(float(row["seconds"]) for row in history.metrics[1:])
    return max(0.0, whole - trained) + experiment.rounds * last


def makespan(seconds: Sequence[float], jobs: int) -> float:
    """When the last is done, if each goes to whoever is free first.

    >>> makespan([4.0, 3.0, 2.0, 1.0], jobs=2), makespan([], jobs=2)
    (5.0, 0.0)
    """
    free = [0.0] * jobs
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
