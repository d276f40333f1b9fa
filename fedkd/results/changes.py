"""What may change when a run is gone on with, and the line of history that says what did."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedkd.base.config_text import flatten
from fedkd.base.errors import InputError
from fedkd.results.files import append_lines, read_lines

if TYPE_CHECKING:
    from fedkd.experiment.experiment import Experiment

#: The file of a run directory that holds the history.
FILE = "changes.jsonl"
#: Keys that say where and how often, and not what is learned; those with a dot at their end are sections.
FREE = ("engine.", "record.", "stop.", "timeout", "evaluate_every", "evaluate_clients", "data.source", "data.path")
#: A key -> what it was and what it is, None where it was or is not there.
Changed = Mapping[str, tuple[Any, Any]]


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The dotted keys of two experiments whose values differ, with both values."""
    keys = dict.fromkeys([*now, *was])
    return {key: (was.get(key), now.get(key)) for key in keys if was.get(key) != now.get(key)}


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ between an experiment that was begun and the one that is asked for.

    A key that the fedkd which began it did not know is no change where it has its default: that is what was done then.
    """
    from fedkd.experiment.experiment import Experiment

    defaults = flatten(tomllib.loads(Experiment().to_toml()))
    return {
        key: (before, asked)
        for key, (before, asked) in differences(was, now).items()
        if not (before is None and key in defaults and asked == defaults[key])
    }


def refuse_changed(path: Path, experiment: Experiment, changed: Changed) -> None:
    """Raise InputError if a key has changed that may not: all but those that are ``FREE``, and ``rounds``, upwards.

    Data may move: what they hold is compared elsewhere. Where the learning rate or the strategy follows a plan over all
    rounds, those that are done would have been others, and ``rounds`` may not change.
    """
    for key, (was, now) in changed.items():
        if key.startswith(FREE):
            continue
        change = f"{path} began with {told_apart(key, was)} and is asked to go on with {told_apart(key, now)}"
        if key != "rounds" or was is None or now < was:
            allowed = ", ".join(name.rstrip(".") for name in FREE)
            cure = f"only rounds (upwards), {allowed} may change; start a new run in another directory"
            raise InputError(f"{change}: {cure}")
        if plan := _plan(experiment):
            raise InputError(f"{change}: {plan} plans over all rounds, so those done would have been others: start a new run")


def _plan(experiment: Experiment) -> str:
    """The part of an experiment that depends on the total number of rounds, in words; empty as a rule."""
    if experiment.train.schedule == "cosine":
        return 'train.schedule = "cosine"'
    strategy = experiment.strategy
    try:
        code = inspect.getsource(type(strategy))
    except (OSError, TypeError):  # no file holds it
        code = ""
    plans = ".rounds" in code or ("ramped(" in code and bool(getattr(strategy, "ramp", True)))
    return type(strategy).__name__ if plans else ""


def told_apart(key: str, value: object) -> str:
    """A key and its value, as a message has them.

    >>> told_apart("train.lr", 0.1), told_apart("train.lr", None)
    ('train.lr = 0.1', 'no train.lr')
    """
    text = repr(value)
    return f"no {key}" if value is None else f"{key} = {text if len(text) <= 60 else text[:57] + '...'}"


def write_down(path: Path, after_round: int, changed: Changed, packages: Changed) -> None:
    """Add a line of history for keys of the experiment and versions of packages that changed; none where nothing did."""
    groups = {"keys": changed, "packages": packages}
    written = {
        name: {key: {"was": was, "is": now} for key, (was, now) in group.items()} for name, group in groups.items() if group
    }
    if written:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        append_lines(path / FILE, [{"after_round": after_round, "time": time, **written}])


def read_changes(path: Path) -> list[dict[str, Any]]:
    """The lines of history, oldest first: ``after_round``, ``time``; ``keys`` or ``packages`` by name, with ``was`` and ``is``.

    Raises InputError where the file is damaged.
    """
    lines = read_lines(path / FILE)
    for number, line in enumerate(lines, start=1):
        groups = [line.get(name, {}) for name in ("keys", "packages")]
        valid = all(
            isinstance(group, dict) and all(isinstance(t, dict) and "is" in t for t in group.values()) for group in groups
        )
        if not valid or not isinstance(line.get("after_round"), int):
            raise InputError(f"{path / FILE}, line {number} tells no change: bring the file back from a copy")
    return lines


def brought_up(experiment: Mapping[str, Any], path: Path, after_round: int) -> dict[str, Any]:
    """An experiment's flat keys as they stood after a round, with the changes that were made since."""
    current = dict(experiment)
    for line in read_changes(path):
        if line["after_round"] >= after_round:
            current |= {key: change["is"] for key, change in line.get("keys", {}).items()}
    return {key: value for key, value in current.items() if value is not None}
