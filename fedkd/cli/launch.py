"""From what was typed to runs: which experiments, into which directories, from the start or from a checkpoint."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedkd.base.errors import InputError, RunFailed
from fedkd.base.garbage import collector_away

if TYPE_CHECKING:
    from fedkd.engine.cells import Cell
    from fedkd.experiment.experiment import Experiment
    from fedkd.grids import JobGrid


def parse_changes(changes: Sequence[str]) -> dict[str, str]:
    """``["data.alpha=0.1"]`` -> ``{"data.alpha": "0.1"}``. Raises InputError for text without an equals sign."""
    pairs = [change.partition("=") for change in changes]
    if bad := next((key for key, equals, _ in pairs if not equals or not all(part.strip() for part in key.split("."))), None):
        raise InputError(f"--set {bad}: write KEY=VALUE, e.g. --set data.alpha=0.1")
    return {key.strip(): value.strip() for key, _, value in pairs}


def parse_seeds(text: str) -> list[int]:
    """Seeds as typed, each once: ``"0-2,7"`` -> ``[0, 1, 2, 7]``. Raises InputError for anything else."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and (not last.isdigit() or int(last) < int(first))):
            raise InputError(f"--seeds {text}: write a range or a list, e.g. --seeds 0-2 or --seeds 0,3,7")
        seeds |= dict.fromkeys(range(int(first), int(last or first) + 1))
    return list(seeds)


def refuse_together(reason: str, options: Mapping[str, object]) -> None:
    """Raise InputError if any of these options was given."""
    if given := next((name for name, value in options.items() if value not in (None, [])), None):
        raise InputError(f"{reason}: leave {given} away")


def engine_settings(file: Path, overrides: Mapping[str, str]) -> dict[str, object]:
    """The [engine] section of an experiment file, with what replaces it. An app's pyproject.toml has none."""
    from fedkd.base.config_text import read_toml

    if file.name == "pyproject.toml":
        return {}
    section = read_toml(file)[1].get("engine", {})
    own = {key.removeprefix("engine."): value for key, value in overrides.items() if key.startswith("engine.")}
    return {**(section if isinstance(section, Mapping) else {}), **own}


@collector_away()
def planned(
    file: Path,
    overrides: Mapping[str, str],
    seeds: Sequence[int | None],
    out: Path | None,
    *,
    several: bool,
    baselines: bool = False,
) -> list[Cell]:
    """The runs to make. All are checked before the first starts, so bad input leaves nothing half done.

    Of ``several`` seeds, or beside ``baselines``, what is already there goes on or is skipped.
    """
    from fedkd.base.config_text import located, read_toml
    from fedkd.engine.cells import Cell
    from fedkd.engine.one_run import tell_what_is_idle
    from fedkd.experiment.experiment import Experiment
    from fedkd.results.place import refuse_if_taken

    cells: list[Cell] = []
    for seed in seeds:
        own = overrides if seed is None else {**overrides, "seed": str(seed)}
        experiment = Experiment.from_toml(file, own)
        if not cells:
            with located(file.name, read_toml(file)[0], besides=own):
                tell_what_is_idle(experiment, own.get("engine.name"))
        place = out / f"seed-{seed}" if out and several else out or default_place(file, experiment)
        runs = {place: experiment, **(beside(place, experiment) if baselines else {})}
        for place, experiment in runs.items():
            cells.append(Cell(experiment, place))
            if several or baselines:
                cells[-1].check()
            else:
                refuse_if_taken(place)
    return cells


def beside(place: Path, experiment: Experiment) -> dict[Path, Experiment]:
    """The experiment's baselines by directory, siblings of its own: DIR-local, DIR-fedavg ..."""
    from fedkd.cli.baselines import baselines_of

    if place.name in ("", ".."):
        raise InputError(f"--baselines writes beside --out, and {place} has no name: give one, e.g. --out runs/mine")
    return {place.with_name(f"{place.name}-{name}"): baseline for name, baseline in baselines_of(experiment).items()}


def default_place(file: Path, experiment: Experiment) -> Path:
    """runs/FILE-STRATEGY-sSEED; the strategy's name once, where the file is named after it too; for FILE an app's directory."""
    from fedkd.experiment.registry import name_of

    strategy = name_of(type(experiment.strategy)).rpartition(":")[2]
    name = file.resolve().parent.name if file.name == "pyproject.toml" else file.stem
    stem = name if strategy in name else f"{name}-{strategy}"
    return Path("runs") / f"{stem}-s{experiment.seed}"


def resumed(path: Path, overrides: Mapping[str, str]) -> Cell:
    """The run in ``path``, to be gone on with. Raises InputError where there is none, or nothing is left to do."""
    from fedkd.engine.cells import Cell
    from fedkd.experiment.experiment import Experiment
    from fedkd.results.directory import RunDirectory
    from fedkd.results.identity import EXPERIMENT
    from fedkd.results.place import refuse_without_run
    from fedkd.results.recorded import RecordedRun

    refuse_without_run(path)
    if not overrides and (path / "report.html").exists() and RecordedRun.read(path).finished:
        stopped = RecordedRun.read(path).stopped
        over = f"stopped by itself ({stopped})" if stopped else "has all its rounds"
        cure = "a later stop, as --set stop.accuracy=..." if stopped else "more of them, as --set rounds=..."
        raise InputError(f"{path} {over}: nothing to resume, but for {cure}; see {path / 'report.html'}")
    RunDirectory.find(path)
    return Cell(Experiment.from_toml(path / EXPERIMENT, overrides), path)


def resumable(path: Path, overrides: Mapping[str, str]) -> list[Cell]:
    """The run in ``path``, or the unfinished ones below it, to be gone on with. InputError where nothing is left to do."""
    from fedkd.results.latest import run_at
    from fedkd.results.place import holds_run
    from fedkd.results.recorded import RecordedRun, run_places

    path = run_at(path)
    inside = [] if holds_run(path) else run_places(path)
    unfinished = [place for place in inside if overrides or not RecordedRun.read(place).finished]
    if inside and not unfinished:
        raise InputError(f"{path}: all {len(inside)} runs in it are finished: nothing is left to do")
    return [resumed(place, overrides) for place in unfinished or [path]]


def carry_out_all(cells: Sequence[Cell], engine: str | JobGrid | None, *, quiet: bool, as_json: bool) -> list[Path]:
    """Make runs one after the other, and say which of them failed; the directories of the others.

    Raises RunFailed if a single run was asked for and fails: several go on with the next.
    """
    done: list[Path] = []
    for cell in cells:
        try:
            carry_out(cell, engine, quiet=quiet, as_json=as_json)
            done.append(cell.out)
        except RunFailed as failure:
            if len(cells) == 1:
                raise
            print(f"fedkd: {cell.out} failed: {failure}", file=sys.stderr)
    return done


def carry_out(cell: Cell, engine: str | JobGrid | None, *, quiet: bool, as_json: bool) -> None:
    """Make one run and show it. A run that stops before its first checkpoint leaves no directory behind."""
    from fedkd.cli.console import display
    from fedkd.engine.cells import State

    state = cell.state
    if state is State.DONE:
        if not (quiet or as_json):
            print(f"{cell.out}: all rounds done, skipped")
        return
    title = f"{cell.out}  ({'going on' if state is State.UNFINISHED else 'new run'}, Ctrl-C stops it)"
    try:
        cell.run(engine, progress=display(title, cell.experiment.rounds, as_json=as_json, quiet=quiet))
    except KeyboardInterrupt:
        kept = (cell.out / "experiment.toml").exists()
        resume = f"go on with: fedkd resume {shlex.quote(str(cell.out))}"
        print(f"stopped; {resume if kept else 'nothing was kept'}", file=sys.stderr)
        raise SystemExit(130) from None
