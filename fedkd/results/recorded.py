"""Reading run directories back, and telling which runs are seeds of one experiment."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedkd.base.errors import InputError, Notice
from fedkd.experiment.algorithm.stop_section import Stopping
from fedkd.results.data import RecordedData
from fedkd.results.identity import EXPERIMENT, digest, flat_experiment, read_code
from fedkd.results.latest import run_at
from fedkd.results.logs import read_clients, read_metrics
from fedkd.results.lost_rounds import failure_of
from fedkd.results.stopping import STOPPED, reason_to_stop

#: How far below a folder of runs one may lie: runs/SWEEP/CELL/seed-0.
LEVELS = 3


#: How keys begin that change no number of a run.
CHANGES_NOTHING = ("record.", "engine.name", "engine.actors", "engine.address")
#: Keys in a group's label, unless it takes more to tell the groups apart.
MOST_KEYS = 4


@dataclass(frozen=True)
class RecordedRun:
    """What a run directory says: the experiment's keys, flat and dotted, and one row a round."""

    path: Path
    experiment: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, path: str | Path) -> RecordedRun:
        """Read a run directory. Raises InputError when it is none, or is damaged."""
        path = Path(path)
        if not (path / EXPERIMENT).is_file():
            raise InputError(f"{path} holds no run (it has no experiment.toml)")
        experiment = flat_experiment(path)
        for key, kind in (("strategy.name", str), ("rounds", int)):
            if not isinstance(experiment.get(key), kind):
                raise InputError(f"{path / EXPERIMENT} has no {key}: bring the file back from a copy, or leave this run out")
        return cls(path, experiment, read_metrics(path))

    @cached_property
    def clients(self) -> list[dict[str, Any]]:
        """The rows of ``clients.jsonl``: client x round."""
        return read_clients(self.path)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What all seeds of one experiment have in common: its keys but the seed, digests of the data and of the user's code.

        A digest is left out where an earlier fedkd recorded nothing, or where there is no such code. Which samples are
        public is drawn by the seed, so it is no part of it; nor is what changes no number: what a run keeps, and which engine.
        """
        code = "".join(f"{name}\n{text}\n" for name, text in read_code(self.path).items())
        data = self.data and f"{self.data.content_hash} {self.data.classes} {self.data.public_content}"
        digests = {f"{name} version": digest(text)[:6] for name, text in (("data", data), ("code", code)) if text}
        kept = {key: value for key, value in self.experiment.items() if key != "seed" and not key.startswith(CHANGES_NOTHING)}
        return kept | digests

    @cached_property
    def data(self) -> RecordedData | None:
        """What the run's data were; None where an earlier fedkd did not say."""
        return RecordedData.read(self.path)

    @property
    def strategy(self) -> str:
        """The strategy's name."""
        return str(self.experiment["strategy.name"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.experiment.get("seed", 0))

    @property
    def rounds_done(self) -> int:
        """How many rounds are logged, row 0 (before training) not counted; -1 when even that is missing."""
        return int(self.rows[-1]["round"]) if self.rows else -1

    @property
    def failure(self) -> str:
        """Why the rounds so far have nothing to show, in one line; empty where they have."""
        return failure_of(self.rows)

    @property
    def complete(self) -> bool:
        """Whether all rounds are logged, or the run stopped by itself; of a run that was copied without its report, too."""
        return self.rounds_done >= int(self.experiment["rounds"]) or bool(self.stopped)

    @property
    def stopped(self) -> str:
        """What ended the run before its last round, in words; empty where nothing did."""
        return str(self.rows[-1].get(STOPPED) or "") if self.rows else ""

    @property
    def finished(self) -> bool:
        """Whether all rounds are logged, or the run stopped by itself, and the report, which is written last, is there.

        A failed run never gets one.
        """
        return self._has(int(self.experiment["rounds"]), self.stopped)

    def has(self, rounds: int, stop: Stopping) -> bool:
        """Whether so many rounds are logged, or all until one of these criteria was met, and reported."""
        return self._has(rounds, self.stopped and reason_to_stop(stop, self.rows))

    def _has(self, rounds: int, stopped: str) -> bool:
        return (self.rounds_done >= rounds or bool(stopped)) and (self.path / "report.html").exists()


@dataclass(frozen=True)
class Seeds:
    """Runs of one experiment that differ in nothing but the seed, and the name they share in a figure."""

    label: str
    runs: tuple[RecordedRun, ...]


def find_runs(paths: Iterable[str | Path]) -> list[RecordedRun]:
    """The runs at the given paths, each once: a run's directory, a group of seeds, a sweep, a folder of sweeps."""
    if isinstance(paths, str | Path) or not all(isinstance(path, str | Path) for path in paths):
        raise InputError(f"give a list of run directories, as ['runs/mine']; got {paths!r}")
    places: dict[Path, Path] = {}
    for path in map(run_at, map(Path, paths)):
        if not (inside := run_places(path)):
            raise InputError(f"{path} is no run and holds none: give directories that `fedkd run` wrote")
        for place in inside:
            places.setdefault(place.resolve(), place)
    return [RecordedRun.read(place) for place in places.values()]


def run_places(path: Path) -> list[Path]:
    """The run directories at a path: itself, or those up to ``LEVELS`` below it, in the order of their names and numbers.

    Of a run that a link leads to as well, as ``runs/latest`` does, the directory itself is given.
    """
    if (path / EXPERIMENT).is_file():
        return [path]
    found = list(_below(path, LEVELS))
    once: dict[Path, Path] = {}
    for place in sorted(found, key=lambda place: (place.is_symlink() or place.parent.is_symlink(), in_order(place))):
        once.setdefault(place.resolve(), place)
    return sorted(once.values(), key=in_order)


def _below(folder: Path, levels: int) -> Iterator[Path]:
    """The runs below a folder; what lies within a run is its own affair."""
    for place in folder.glob("*"):
        if (place / EXPERIMENT).is_file():
            yield place
        elif levels > 1:
            yield from _below(place, levels - 1)


def in_order(place: Path) -> list[tuple[int, str]]:
    """Sorts runs by their names, and seed-2 before seed-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(place))]


def check_runs(runs: object) -> None:
    """Raise InputError for anything but a list of runs that were read."""
    if not isinstance(runs, Sequence) or not runs or not all(isinstance(run, RecordedRun) for run in runs):
        raise InputError(f"give a list of runs, as find_runs(['runs/mine']) reads them; got {runs!r:.80}")


def without_failed(runs: Sequence[RecordedRun]) -> list[RecordedRun]:
    """The runs that have something to show; a Notice names each of the others. Raises InputError where none has."""
    good = [run for run in runs if not run.failure]
    if not good:
        raise InputError(f"{runs[0].path} failed, there is nothing to draw: {runs[0].failure}")
    for run in runs:
        if run.failure:
            warnings.warn(f"{run.path} failed and is left out: {run.failure}", Notice, stacklevel=2)
    return good


def group_seeds(runs: Sequence[RecordedRun]) -> list[Seeds]:
    """Put seeds of one experiment, data and code together, in the order given; labels name strategy and keys that differ."""
    groups: dict[tuple[tuple[str, str], ...], list[RecordedRun]] = {}
    for run in runs:
        identity = tuple(sorted((key, repr(value)) for key, value in run.identity.items()))
        members = groups.setdefault(identity, [])
        if all(run.path.resolve() != other.path.resolve() for other in members):
            members.append(run)
    firsts = [members[0] for members in groups.values()]
    return [Seeds(_label(members[0], firsts), tuple(members)) for members in groups.values()]


def _label(run: RecordedRun, others: Sequence[RecordedRun]) -> str:
    """The strategy's name, and in brackets the keys that tell it from the other runs of the same strategy."""
    rivals = [other for other in others if other.strategy == run.strategy]
    keys = dict.fromkeys(key for other in rivals for key in other.identity)
    differing = [key for key in keys if len({repr(other.identity.get(key)) for other in rivals}) > 1]
    shown = differing[: max(MOST_KEYS, _telling(differing, rivals))]
    named = [
        f"{key if key.startswith('stop.') else key.rpartition('.')[2]} {str(run.identity[key]).removesuffix(',') or 'none'}"
        for key in shown
        if key in run.identity
    ]
    if more := len(differing) - len(shown):
        named.append(f"and {more} more key{'s' if more > 1 else ''}")
    return f"{run.strategy} ({', '.join(named)})" if named else run.strategy


def _telling(keys: Sequence[str], rivals: Sequence[RecordedRun]) -> int:
    """How many of these keys, from the first on, tell as many of the rivals apart as all of them do."""

    def apart(count: int) -> int:
        return len({tuple(repr(rival.identity.get(key)) for key in keys[:count]) for rival in rivals})

    return next(count for count in range(len(keys) + 1) if apart(count) == apart(len(keys)))
