"""simulate: run an experiment in this process, on an engine of ours, and get its History back; of several seeds, theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, overload

from fedkd.base.errors import InputError
from fedkd.engine.cells import run_seeds
from fedkd.engine.one_run import run_once
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.explain import shown
from fedkd.grids import JobGrid
from fedkd.results.histories import Histories
from fedkd.results.history import History
from fedkd.results.round_lines import Display

OnRound = Callable[[dict[str, Any]], None]


@overload
def simulate(
    experiment: Experiment,
    engine: str | JobGrid | None = None,
    *,
    seeds: None = None,
    out: str | Path | None = None,
    resume: bool = False,
    on_round: OnRound | None = None,
    progress: bool | Display = False,
) -> History: ...


@overload
def simulate(
    experiment: Experiment,
    engine: str | JobGrid | None = None,
    *,
    seeds: Iterable[int],
    out: str | Path | None = None,
    on_round: OnRound | None = None,
    progress: bool | Display = False,
) -> Histories: ...


def simulate(
    experiment: Experiment,
    engine: str | JobGrid | None = None,
    *,
    seeds: Iterable[int] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    on_round: OnRound | None = None,
    progress: bool | Display = False,
) -> History | Histories:
    """Run an experiment and return its History. Leaves no global state behind; call it as often as you like.

    Args:
        experiment: what to run.
        engine: ``"in-process"``, ``"ray"`` or a grid; default, the experiment's own.
        seeds: run it once with each of these seeds, as ``range(5)``, and return their Histories. With ``out`` each stands in
            ``out/seed-N``: what is finished there is read, and what is unfinished goes on.
        out: a directory for the run's files; it must be new, or hold a run to ``resume``.
        resume: go on from the last checkpoint in ``out``.
        on_round: called with each row of metrics as it comes; of several seeds a row begins with its ``seed``.
        progress: True shows the rounds as they go on: a live table on a terminal or in a notebook, lines elsewhere. Or what
            shows them.

    Raises:
        InputError: bad input, in one line, before anything is written.
        RunFailed: in no round a client's upload counted, or nothing could be evaluated; its ``history`` has the rows, and
            what was written to ``out`` stays. Of several seeds it is raised when all have run, with the Histories of the
            others.
    """
    _check_arguments(experiment, out, on_round, progress)
    if seeds is None:
        return run_once(experiment, engine, out=out, resume=resume, on_round=on_round, progress=progress)
    if resume:
        raise InputError("resume: seeds that are unfinished in out go on by themselves: leave it away")
    return run_seeds(experiment, _checked_seeds(seeds), engine, out=out, on_round=on_round, progress=progress)


def _checked_seeds(seeds: object) -> list[int]:
    numbers = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else []
    if not numbers or not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in numbers):
        raise InputError(f"seeds: give whole numbers, as range(5); got {shown(seeds)}")
    return list(dict.fromkeys(numbers))


def _check_arguments(experiment: object, out: object, on_round: object, progress: object) -> None:
    if isinstance(experiment, str | Path):
        raise InputError(f"simulate takes an Experiment, not a file: simulate(Experiment.from_toml({str(experiment)!r}))")
    if not isinstance(experiment, Experiment):
        raise InputError(f"simulate takes an Experiment, as Experiment(rounds=3); got {shown(experiment)}")
    if not isinstance(out, str | Path | None):
        raise InputError(f"out: give the path of a directory, got {shown(out)}")
    if on_round is not None and not callable(on_round):
        raise InputError(f"on_round: give a function that takes a row of metrics, got {shown(on_round)}")
    if not isinstance(progress, bool | Display):
        raise InputError(f"progress: give True or False, got {shown(progress)}")
