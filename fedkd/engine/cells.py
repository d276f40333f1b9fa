"""Cells: runs of a plan, one experiment and one directory each. What is there is left, what is unfinished goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, final

from fedkd.base.errors import InputError, RunFailed
from fedkd.engine.one_run import run_once
from fedkd.engine.recording import identity_of
from fedkd.experiment.experiment import Experiment
from fedkd.grids import JobGrid
from fedkd.results.changes import changes
from fedkd.results.directory import RunDirectory
from fedkd.results.files import writing
from fedkd.results.group_files import write_group
from fedkd.results.histories import Histories
from fedkd.results.history import History
from fedkd.results.identity import refuse_other
from fedkd.results.lock import is_locked
from fedkd.results.place import holds_run, refuse_if_taken
from fedkd.results.recorded import RecordedRun
from fedkd.results.round_lines import Display


class State(StrEnum):
    """What there is of a cell."""

    TO_DO = "to do"
    UNFINISHED = "unfinished"
    FAILED = "failed"
    DONE = "done"


@final
@dataclass(frozen=True)
class Cell:
    """One run: what, and where its files are."""

    experiment: Experiment
    out: Path

    @property
    def state(self) -> State:
        """What there is of it on disk. Raises InputError where that is damaged."""
        if not holds_run(self.out) or RunDirectory.is_unstarted(self.out):
            return State.TO_DO
        there = RecordedRun.read(self.out)
        if there.has(self.experiment.rounds, self.experiment.stop):
            return State.DONE
        if there.failure and there.rounds_done >= self.experiment.rounds:
            return State.FAILED
        return State.UNFINISHED

    def check(self) -> None:
        """Raise InputError where its directory holds another experiment, data or code, was edited, or holds other files."""
        there = holds_run(self.out)
        if RunDirectory.is_unstarted(self.out):
            return
        if there:
            self._refuse_other()
        else:
            refuse_if_taken(self.out)

    def run(
        self,
        engine: str | JobGrid | None = None,
        *,
        on_round: Callable[[dict[str, Any]], None] | None = None,
        progress: bool | Display = False,
    ) -> History:
        """Run it, or what is left of it. Raises what ``fedkd.simulate`` does, and RunFailed for one that has failed before."""
        state = self.state
        if state is State.DONE:
            return History.read_directory(self.out)
        if state is State.FAILED:
            there = RecordedRun.read(self.out)
            raise RunFailed(f"{there.failure}; to run it again, remove {self.out} first", History.read_directory(self.out))
        if state is State.TO_DO and not is_locked(self.out):
            RunDirectory.clear_unstarted(self.out)
        resume = state is State.UNFINISHED
        return run_once(self.experiment, engine, out=self.out, resume=resume, on_round=on_round, progress=progress)

    def _refuse_other(self) -> None:
        there, now = RecordedRun.read(self.out), identity_of(self.experiment, self.experiment.functions())
        if (self.out / "checkpoint").is_dir():
            RunDirectory.find(self.out)
        for key, (was, is_now) in changes(there.experiment, now.experiment).items():
            if not key.startswith(("engine.", "record.")):
                difference = f"{key} is {was!r} there and {is_now!r} here"
                raise InputError(
                    f"{self.out} holds a run of another experiment ({difference}): give another directory with --out"
                )
        refuse_other(self.out, now)


def cells_of_seeds(experiment: Experiment, seeds: Iterable[int], out: Path) -> list[Cell]:
    """The experiment with each of these seeds, in ``out/seed-N``."""
    return [Cell(experiment.replace(seed=seed), out / f"seed-{seed}") for seed in seeds]


def run_seeds(
    experiment: Experiment,
    seeds: Iterable[int],
    engine: str | JobGrid | None,
    *,
    out: str | Path | None,
    on_round: Callable[[dict[str, Any]], None] | None,
    progress: bool | Display,
) -> Histories:
    """``fedkd.simulate`` with seeds, whose words these are. Every cell is checked before the first runs."""
    runs: dict[int, Callable[..., History]] = {}
    for cell in cells_of_seeds(experiment, seeds, Path(out or "")):
        if out is not None:
            cell.check()
        runs[cell.experiment.seed] = cell.run if out is not None else _unrecorded(cell.experiment)
    found: dict[int, History] = {}
    failed: dict[int, RunFailed] = {}
    for seed, run in runs.items():
        try:
            found[seed] = run(engine, on_round=_with_seed(seed, on_round), progress=progress)
        except RunFailed as failure:
            failed[seed] = failure
    if failed:
        reasons = "; ".join(f"seed {seed}: {failure}" for seed, failure in failed.items())
        raise RunFailed(f"{len(failed)} of {len(runs)} seeds failed ({reasons})", Histories(found))
    if out is not None and len(found) > 1:
        with writing(Path(out)):
            write_group(Path(out), [RecordedRun.read(Path(out) / f"seed-{seed}") for seed in found])
    return Histories(found)


def _unrecorded(experiment: Experiment) -> Callable[..., History]:
    return lambda engine, **how: run_once(experiment, engine, **how)


def _with_seed(seed: int, on_round: Callable[[dict[str, Any]], None] | None) -> Callable[[dict[str, Any]], None] | None:
    return None if on_round is None else lambda row: on_round({"seed": seed, **row})
