"""Keys that a user set and that this experiment does not use: an error with the reason, or a Notice where nothing is lost.

The one rule: a key that does nothing is an error, as the user meant it to do something; unless it is at its default anyway, or
merely stands ready (options of another net, public samples that are held out). ``fedkd.experiment.unused_keys`` knows
which keys those are, and asks the strategy (``idle``); what shows only from messages, ``fedkd.engine.unused_messages``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, final

from fedkd.base.errors import InputError, Notice
from fedkd.experiment.algorithm.sections import SECTIONS
from fedkd.experiment.values import ExperimentValues


@final
@dataclass(frozen=True)
class Unused:
    """A key that does nothing here. ``harmless``: whatever its value, nobody is misled if it stays."""

    key: str
    why: str
    cure: str = "leave it out"
    harmless: bool = False
    effect: str = "does nothing here"


def tell(experiment: ExperimentValues, given: Collection[str], unused: Iterable[Unused]) -> None:
    """Raise InputError for the first ``given`` key that does nothing; a Notice where its value misleads nobody.

    Args:
        experiment: whose keys.
        given: the dotted keys that the user set, by file, command line or from Python.
        unused: keys that do nothing in the experiment, set or not.
    """
    notes = []
    for each in unused:
        if each.key in given:
            value, usual = value_of(experiment, each.key)
            if not value and value == usual:  # switched off in so many words
                continue
            line = f"{each.key} = {in_words(value)} {each.effect}: {each.why}"
            if not each.harmless and value != usual:
                raise InputError(f"{line}: {each.cure}")
            notes.append(line)
    for note in notes:
        warnings.warn(note, Notice, stacklevel=4)


def given_keys(experiment: ExperimentValues, strategy: object) -> set[str]:
    """The dotted keys that the user set. ``strategy``: as it was given, a table, a name or an instance."""
    given = set(experiment.model_fields_set)
    for section in given & SECTIONS.keys():
        given |= {f"{section}.{key}" for key in getattr(experiment, section).model_fields_set}
    if "net_options" in given:
        given |= {f"net_options.{net}" for net in experiment.net_options}
    if isinstance(strategy, Mapping):
        given |= {f"strategy.{key}" for key in strategy}
    elif strategy is not None and not isinstance(strategy, str):
        usual = defaults_of(experiment.strategy)
        given |= {f"strategy.{name}" for name in usual if getattr(experiment.strategy, name) != usual[name]}
    return given


def value_of(experiment: ExperimentValues, key: str) -> tuple[Any, Any]:
    """The value of a dotted key, and its default."""
    section, _, name = key.rpartition(".")
    if not section:
        return getattr(experiment, name), type(experiment).model_fields[name].default
    if section == "net_options":
        return experiment.net_options[name], {}
    if section == "strategy":
        return getattr(experiment.strategy, name), defaults_of(experiment.strategy)[name]
    model = getattr(experiment, section)
    return getattr(model, name), type(model).model_fields[name].get_default(call_default_factory=True)


def defaults_of(strategy: Any) -> dict[str, Any]:
    """The default of each field; of a field without one, something that no value equals."""
    return {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(strategy)
    }


def in_words(value: object) -> str:
    """A value as the file has it, where it can be.

    >>> in_words("mlp"), in_words((3, 6)), in_words(True)
    ('"mlp"', '[3, 6]', 'true')
    """
    return json.dumps(value, default=str)


def is_complete(tables: Mapping[str, Any]) -> bool:
    """Whether they hold every key of the main sections, as a run's experiment.toml does: then nobody chose to set one."""
    return all(SECTIONS[name].model_fields.keys() <= tables.get(name, {}).keys() for name in ("train", "data", "engine"))


def forget_but(experiment: ExperimentValues, meant: Collection[str]) -> None:
    """Take all keys for defaults but those that the user meant, dotted or whole sections. The sections are its own."""
    experiment.model_fields_set.intersection_update({key.partition(".")[0] for key in meant})
    for section in (SECTIONS.keys() & experiment.model_fields_set) - set(meant):
        inside = {key.partition(".")[2] for key in meant if key.startswith(f"{section}.")}
        getattr(experiment, section).model_fields_set.intersection_update(inside)
