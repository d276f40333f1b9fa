"""What lies under a folder of runs: one line a run, damaged ones too."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.base.errors import InputError
from fedkd.results.comparison.readings import readings
from fedkd.results.lock import is_locked
from fedkd.results.recorded import RecordedRun, run_places

#: What a run may be.
RUNNING, FINISHED, FAILED, UNFINISHED, DAMAGED = "running", "finished", "failed", "unfinished", "damaged"


@dataclass(frozen=True)
class ListedRun:
    """One run of a list. Numbers that it has not are None; ``age`` is in seconds since its rows were last written."""

    name: str  # its path below the folder
    status: str
    strategy: str = ""
    data: str = ""
    seed: int | None = None
    rounds_done: int | None = None
    rounds: int | None = None
    accuracy: float | None = None  # the last that was measured
    size: int = 0  # bytes of all its files
    age: float = 0.0
    reason: str = ""  # why it failed, or what is damaged


def list_runs(folder: Path) -> list[ListedRun]:
    """The runs below a folder, those of sweeps too, the newest first. Raises InputError where there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: `fedkd run FILE` makes one, or give another")
    return sorted((_listed(place, folder) for place in run_places(folder)), key=lambda run: run.age)


def _listed(place: Path, folder: Path) -> ListedRun:
    name = place.relative_to(folder).as_posix() if place != folder else place.name
    files = [file.stat() for file in place.rglob("*") if file.is_file()]
    newest = max((file.stat().st_mtime for file in place.glob("*.jsonl")), default=place.stat().st_mtime)
    common: Mapping[str, Any] = {
        "name": name,
        "size": sum(file.st_size for file in files),
        "age": max(0.0, time.time() - newest),
    }
    try:
        run = RecordedRun.read(place)
    except InputError as error:
        return ListedRun(status=DAMAGED, reason=str(error), **common)
    found = readings(run.rows, "accuracy", 1)
    return ListedRun(
        status=_status(run),
        strategy=run.strategy,
        data=str(run.experiment.get("data.source", "")),
        seed=run.seed,
        rounds_done=max(run.rounds_done, 0),
        rounds=int(run.experiment["rounds"]),
        accuracy=found.last if found else None,
        reason=run.failure,
        **common,
    )


def _status(run: RecordedRun) -> str:
    if is_locked(run.path):
        return RUNNING
    if run.finished:
        return FINISHED
    return FAILED if run.failure and run.complete else UNFINISHED
