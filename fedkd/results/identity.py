"""What makes a run this one and no other: its experiment, its data, and the code of the user's that it used."""

from __future__ import annotations

import hashlib
import re
import tomllib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedkd.base.config_text import flatten
from fedkd.base.errors import InputError, Notice
from fedkd.base.user_source import UNKNOWN, source_of
from fedkd.results.changes import differences, told_apart
from fedkd.results.data import RecordedData
from fedkd.results.files import write_atomically

if TYPE_CHECKING:
    from fedkd.experiment.algorithm.functions import Functions

#: The folder of a run directory that holds the code, and its description of the experiment.
CODE, EXPERIMENT = "code", "experiment.toml"
CURE = "bring the old ones back, or start a new run in another directory"
#: What an unequal field of the data means, in the order in which it is looked for.
_DATA = {
    "classes": "the class names",
    "shape": "the shape of the samples",
    "content_hash": "the samples or labels",
    "public_hash": "the public samples",
    "client_train": "the numbers of samples that clients train on",
    "partition_hash": "the samples that each client holds",
}


@dataclass(frozen=True)
class Identity:
    """A run's experiment as TOML, its data, and the text of every piece of the user's code by file name."""

    experiment_toml: str
    data: RecordedData
    code: Mapping[str, str]

    @property
    def experiment(self) -> dict[str, Any]:
        """The experiment's keys, flat and dotted."""
        return flatten(tomllib.loads(self.experiment_toml))

    def digests(self) -> dict[str, Any]:
        """What a checkpoint remembers of it."""
        return {"experiment": self.experiment, "data": digest(self.data.to_json()), "code": _digests(self.code)}

    def write(self, path: Path) -> None:
        """Write ``data.json``, ``code/`` and, last, ``experiment.toml``."""
        self.data.write(path)
        for name, text in self.code.items():
            (path / CODE).mkdir(exist_ok=True)
            write_atomically(path / CODE / name, text)
        write_atomically(path / EXPERIMENT, self.experiment_toml)


def code_of(functions: Functions) -> dict[str, str]:
    """The text of what a user gave or named, by file name: ``strategy.py``, ``nets-my_module.net.py`` ..."""
    given: dict[str, Callable[..., Any] | None] = {}
    for field in fields(functions):
        if field.name == "found":
            continue
        value = getattr(functions, field.name)
        named = {f"{field.name}-{name}": code for name, code in value.items()} if isinstance(value, Mapping) else None
        given |= {field.name: value} if named is None else named
    by_file = {re.sub(r"[^\w.-]+", ".", name).strip(".-") + ".py": code for name, code in given.items() if code is not None}
    return {name: source_of(code) for name, code in sorted(by_file.items())}


def flat_experiment(path: Path) -> dict[str, Any]:
    """The dotted keys of a run directory's ``experiment.toml``. Raises InputError where it cannot be read."""
    file = path / EXPERIMENT
    try:
        return flatten(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error}): bring it back from a copy, or take another run") from None


def read_code(path: Path) -> dict[str, str]:
    """What ``Identity.write`` wrote into ``code/``."""
    files = sorted((path / CODE).glob("*.py"))
    return {file.name: file.read_text(encoding="utf-8", errors="backslashreplace") for file in files if file.is_file()}


def refuse_edited(path: Path, recorded: Mapping[str, Any]) -> None:
    """Raise InputError where a file of the directory is not the one that the run wrote."""
    if edited := differences(recorded["experiment"], flat_experiment(path)):
        key, (was, now) = next(iter(edited.items()))
        cure = f"write {told_apart(key, was)} back; what may change is given as `fedkd resume {path} --set KEY=VALUE`"
        raise InputError(
            f"{path / EXPERIMENT} was edited: it has {told_apart(key, now)}, the run {told_apart(key, was)}: {cure}"
        )
    data = path / "data.json"
    if not data.is_file() or digest(data.read_bytes()) != recorded["data"]:
        raise InputError(f"{data} is missing or was edited: bring it back from a copy")
    if _digests(read_code(path)) != recorded["code"]:
        raise InputError(f"{path / CODE} is not as the run wrote it: bring its files back from a copy")


def refuse_other(path: Path, now: Identity) -> None:
    """Raise InputError where data or code are not those that the run in this directory began with."""
    if (was := RecordedData.read(path)) is not None:
        refuse_other_data(path, was, now.data)
        refuse_other_code(path, read_code(path), now.code)


def refuse_other_data(path: Path, was: RecordedData, now: RecordedData) -> None:
    """Raise InputError where the data are not those that the run began with."""
    for name, meaning in _DATA.items():
        if getattr(was, name) != getattr(now, name):
            detail = f" ({_first_difference(was.classes, now.classes)})" if name == "classes" else ""
            raise InputError(f"{path} began with other data, {meaning} are not what they were{detail}: {CURE}")


def refuse_other_code(path: Path, was: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise InputError where a piece of the user's code is not what the run began with; a Notice where nobody can tell."""
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) == now.get(name) and UNKNOWN not in was[name]:
            continue
        if UNKNOWN in was.get(name, "") or UNKNOWN in now.get(name, ""):
            text = f"{path}: whether {name.removesuffix('.py')} is the code that the run began with is not known"
            warnings.warn(f"{text}: no file holds its text", Notice, stacklevel=2)
        else:
            raise InputError(
                f"{path} began with other code, {name.removesuffix('.py')} is not what {path / CODE / name} holds: {CURE}"
            )


def digest(content: str | bytes) -> str:
    """A hex digest."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _digests(code: Mapping[str, str]) -> dict[str, str]:
    return {name: digest(text) for name, text in code.items()}


def _first_difference(was: tuple[str, ...], now: tuple[str, ...]) -> str:
    if len(was) != len(now):
        return f"{len(was)} then, {len(now)} now"
    pairs = enumerate(zip(was, now, strict=True))
    return next(f"class {number} was {a[:40]!r} and is {b[:40]!r}" for number, (a, b) in pairs if a != b)
