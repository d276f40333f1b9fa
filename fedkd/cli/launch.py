"""From what was typed to runs: which experiments, into which directories, from the start or from a checkpoint."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedkd.base.errors import InputError, RunFailed

if TYPE_CHECKING:
    from fedkd.experiment.experiment import Experiment


@dataclass(frozen=True)
class Launch:
    """One run to make: what, where, and whether it goes on from a checkpoint."""

    experiment: Experiment
    out: Path
    resume: bool = False


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


def planned(
    file: Path,
    overrides: Mapping[str, str],
    seeds: Sequence[int | None],
    out: Path | None,
    *,
    several: bool,
    baselines: bool = False,
) -> list[Launch]:
    """The runs to make. All are checked before the first starts, so bad input leaves nothing half done.

    Of ``several`` seeds, or beside ``baselines``, what is already there goes on or is skipped.
    """
    from fedkd.base.config_text import located, read_toml
    from fedkd.engine.simulation import tell_what_is_idle
    from fedkd.experiment.experiment import Experiment

    launches: list[Launch] = []
    for seed in seeds:
        own = overrides if seed is None else {**overrides, "seed": str(seed)}
        experiment = Experiment.from_toml(file, own)
        if not launches:
            with located(file.name, read_toml(file)[0], besides=own):
                tell_what_is_idle(experiment, own.get("engine.name"))
        place = out / f"seed-{seed}" if out and several else out or default_place(file, experiment)
        runs = {place: experiment, **(beside(place, experiment) if baselines else {})}
        launches += [at(place, experiment, go_on=several or baselines) for place, experiment in runs.items()]
    return launches


def beside(place: Path, experiment: Experiment) -> dict[Path, Experiment]:
    """The experiment's baselines by directory, siblings of its own: DIR-local, DIR-fedavg ..."""
    from fedkd.cli.baselines import baselines_of

    if place.name in ("", ".."):
        raise InputError(f"--baselines writes beside --out, and {place} has no name: give one, e.g. --out runs/mine")
    return {place.with_name(f"{place.name}-{name}"): baseline for name, baseline in baselines_of(experiment).items()}


def at(place: Path, experiment: Experiment, *, go_on: bool) -> Launch:
    """A run in this directory. Raises InputError if it is taken; with ``go_on``, only if by another run than this one."""
    from fedkd.results.place import holds_run, refuse_if_taken

    launch = Launch(experiment, place, resume=go_on and holds_run(place))
    if launch.resume:
        refuse_other_experiment(launch)
    else:
        refuse_if_taken(place)
    return launch


def default_place(file: Path, experiment: Experiment) -> Path:
    """runs/FILE-STRATEGY-sSEED; the strategy's name once, where the file is named after it too; for FILE an app's directory."""
    from fedkd.experiment.registry import name_of

    strategy = name_of(type(experiment.strategy)).rpartition(":")[2]
    name = file.resolve().parent.name if file.name == "pyproject.toml" else file.stem
    stem = name if strategy in name else f"{name}-{strategy}"
    return Path("runs") / f"{stem}-s{experiment.seed}"


def resumed(path: Path, overrides: Mapping[str, str]) -> Launch:
    """The run in ``path``, to be gone on with. Raises InputError where there is none, or nothing is left to do."""
    from fedkd.experiment.experiment import Experiment
    from fedkd.results.directory import RunDirectory
    from fedkd.results.identity import EXPERIMENT
    from fedkd.results.place import refuse_without_run
    from fedkd.results.recorded import RecordedRun

    refuse_without_run(path)
    if not overrides and (path / "report.html").exists() and RecordedRun.read(path).finished:
        cure = "nothing to resume, but for more of them: --set rounds=NUMBER"
        raise InputError(f"{path} has all its rounds: {cure}; see {path / 'report.html'}")
    RunDirectory.find(path)
    return Launch(Experiment.from_toml(path / EXPERIMENT, overrides), path, resume=True)


def refuse_other_experiment(launch: Launch) -> None:
    """Raise InputError if the directory holds a run of another experiment, data or code than asked for, or was edited."""
    from fedkd.engine.recording import identity_of
    from fedkd.results.changes import differences
    from fedkd.results.directory import RunDirectory
    from fedkd.results.identity import refuse_other
    from fedkd.results.recorded import RecordedRun

    there, now = RecordedRun.read(launch.out), identity_of(launch.experiment, launch.experiment.functions())
    if (launch.out / "checkpoint").is_dir():
        RunDirectory.find(launch.out)
    for key, (was, is_now) in differences(there.experiment, now.experiment).items():
        if not key.startswith(("engine.", "record.")):
            difference = f"{key} is {was!r} there and {is_now!r} here"
            raise InputError(
                f"{launch.out} holds a run of another experiment ({difference}): give another directory with --out"
            )
    refuse_other(launch.out, now)


def carry_out_all(launches: Sequence[Launch], engine: str | None, *, quiet: bool, as_json: bool) -> list[Path]:
    """Make runs one after the other, and say which of them failed; the directories of the others.

    Raises RunFailed if a single run was asked for and fails: several go on with the next.
    """
    done: list[Path] = []
    for launch in launches:
        try:
            carry_out(launch, engine, quiet=quiet, as_json=as_json)
            done.append(launch.out)
        except RunFailed as failure:
            if len(launches) == 1:
                raise
            print(f"fedkd: {launch.out} failed: {failure}", file=sys.stderr)
    return done


def carry_out(launch: Launch, engine: str | None, *, quiet: bool, as_json: bool) -> None:
    """Make one run and show it. A run that stops before its first checkpoint leaves no directory behind."""
    from fedkd.cli.console import display
    from fedkd.results.recorded import RecordedRun

    if launch.resume:
        there = RecordedRun.read(launch.out)
        if there.has(launch.experiment.rounds):
            if not (quiet or as_json):
                print(f"{launch.out}: all rounds done, skipped")
            return
        if there.failure and there.rounds_done >= launch.experiment.rounds:
            raise RunFailed(f"{there.failure}; to run it again, remove {launch.out} first")
    from fedkd.engine.simulation import simulate

    title = f"{launch.out}  ({'going on' if launch.resume else 'new run'}, Ctrl-C stops it)"
    try:
        shown = display(title, launch.experiment.rounds, as_json=as_json, quiet=quiet)
        simulate(launch.experiment, engine, out=launch.out, resume=launch.resume, progress=shown)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            raise
        kept = (launch.out / "experiment.toml").exists()
        resume = f"go on with: fedkd run --resume {shlex.quote(str(launch.out))}"
        print(f"stopped; {resume if kept else 'nothing was kept'}", file=sys.stderr)
        raise SystemExit(130) from None
