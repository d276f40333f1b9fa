"""What a sink is, and all sinks of a run together. A sink that fails is left away with a word: the run goes on."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self, final

from fedkd.base.errors import InputError, Notice


@final
@dataclass(frozen=True)
class About:
    """What a sink is told of a run.

    Args:
        path: its directory.
        experiment: its keys, flat and dotted.
        done: its last round that is over where it is gone on with; -1 for a new one.
    """

    path: Path
    experiment: Mapping[str, Any]
    done: int

    @property
    def group(self) -> str:
        """What seeds of one experiment have in common: the name of their directory, or the strategy's."""
        parent = self.path.resolve().parent.name
        return parent if self.path.name == f"seed-{self.experiment.get('seed', 0)}" else str(self.experiment["strategy.name"])


class Sink(ABC):
    """One tool that shows runs. It is opened once a run, or once more where the run is gone on with."""

    needs: ClassVar[str]
    """The package that it imports."""
    extra: ClassVar[str]
    """What to install: an extra of fedkd, or the package."""

    @abstractmethod
    def __init__(self, about: About) -> None:
        """Begin, or go on after the last round that is over."""

    @abstractmethod
    def write(self, row: Mapping[str, Any], clients: Sequence[Mapping[str, Any]]) -> None:
        """A round is over: its row, and a line for each client."""

    @abstractmethod
    def close(self) -> None:
        """The run is over, or was stopped."""


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The entries of a row that a curve can be drawn of.

    >>> numbers({"round": 1, "accuracy": 0.5, "loss": None, "accuracy_of": "peers", "rolled_back": True})
    {'accuracy': 0.5}
    """
    kept = {key: value for key, value in row.items() if key != "round" and isinstance(value, int | float)}
    return {key: float(value) for key, value in kept.items() if not isinstance(value, bool) and value == value}


def check_sinks(names: Sequence[str]) -> None:
    """Raise InputError, before a run begins, for a sink whose package is not here."""
    for name in names:
        if find_spec(find_sink(name).needs) is None:
            raise InputError(f'record.sinks: "{name}" needs a package: pip install "{find_sink(name).extra}"')


def find_sink(name: str) -> type[Sink]:
    """Of a name in ``SINKS`` of the [record] section, the class in the file of that name."""
    found: type[Sink] = import_module(f"fedkd.results.sinks.{name}").Writer
    return found


@final
class Sinks:
    """The sinks of a run. One that raises is told of once and left away."""

    def __init__(self, names: Sequence[str], about: About) -> None:
        self._open: dict[str, Sink] = {}
        for name in names:
            try:
                self._open[name] = find_sink(name)(about)
            except Exception as error:
                self._tell(name, error)

    def write(self, row: Mapping[str, Any], clients: Sequence[Mapping[str, Any]]) -> None:
        """A round is over."""
        for name, sink in list(self._open.items()):
            try:
                sink.write(row, clients)
            except Exception as error:  # whatever a tool of others does, the run goes on
                del self._open[name]
                self._tell(name, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            name, sink = self._open.popitem()
            try:
                sink.close()
            except Exception as error:
                self._tell(name, error)

    def _tell(self, name: str, error: Exception) -> None:
        what = str(error).strip().partition("\n")[0] or type(error).__name__
        text = f'record.sinks: "{name}" is left away from here on, as it failed ({what}); metrics.jsonl has all rows'
        warnings.warn(text, Notice, stacklevel=3)
