"""Keys in the wrong place: below a [section] that is not theirs, or above one that is. Each is told where it belongs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

from fedkd.base.errors import InputError
from fedkd.experiment import registry
from fedkd.experiment.algorithm.sections import SECTIONS
from fedkd.nets import ZOO


def refuse_misplaced(tables: Mapping[str, Any], own: Collection[str]) -> None:
    """Raise InputError for the first key that another place knows and its own does not.

    Args:
        tables: an experiment as a file has it, keys and sections; of what is no table only the name is looked at.
        own: the names of the experiment's own keys and sections.
    """
    for key in [key for key in tables if key not in own]:
        if homes := [section for section in (*SECTIONS, "strategy") if key in known_in(section, tables)]:
            raise InputError(
                f"unknown key {key!r}: it is a key of {named(homes)}: move it below that header, as {homes[0]}.{key}"
            )
    for path, table in sections_of(tables):
        known = known_in(path, tables)
        for key in [key for key in table if key not in known]:
            if key in own and isinstance(table[key], Mapping):
                raise InputError(f"unknown key '{path}.{key}': {key} is a section of its own: write its header as [{key}]")
            if key in own:
                raise InputError(
                    f"unknown key '{path}.{key}': {key} is a key of the whole experiment: move it above the first [section]"
                )
            homes = [section for section in (*SECTIONS, "strategy") if key in known_in(section, tables)]
            if homes and not path.startswith("net_options."):  # a strategy may call a field as a net calls an option
                raise InputError(
                    f"unknown key '{path}.{key}': it is a key of {named(homes)}: move it there, as {homes[0]}.{key}"
                )


def sections_of(tables: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The sections that are tables, by their dotted names."""
    for section in (*SECTIONS, "strategy"):
        if isinstance(table := tables.get(section), Mapping) and known_in(section, tables):  # else its name is unknown
            yield section, table
    options = tables.get("net_options")
    for net, table in options.items() if isinstance(options, Mapping) else ():
        if isinstance(table, Mapping) and net in ZOO:  # a net of the user's own may name its options as it likes
            yield f"net_options.{net}", table


def known_in(path: str, tables: Mapping[str, Any]) -> set[str]:
    """The keys that a section takes, its partition's or strategy's too."""
    if path == "strategy":
        return _of_strategy(tables.get("strategy"))
    model = SECTIONS.get(path)
    if model is None:
        return set()
    return {*model.model_fields, *(_of_partition(tables.get("data")) if path == "data" else ())}


def named(sections: Collection[str]) -> str:
    """
    >>> named(["data"]), named(["train", "privacy"])
    ('[data]', '[train] or [privacy]')
    """
    return " or ".join(f"[{section}]" for section in sections)


def _of_strategy(given: object) -> set[str]:
    name = given.get("name", "fedavg") if isinstance(given, Mapping) else given
    if not isinstance(name, str) or (":" not in name and name not in registry.names()):
        return set()
    return {"name", *(field.name for field in fields(registry.load(name)))}


def _of_partition(given: object) -> set[str]:
    from fedkd.data.partition import argument_names

    name = given.get("partition", "dirichlet") if isinstance(given, Mapping) else "dirichlet"
    with suppress(InputError):  # an unknown partition
        return argument_names(str(name))
    return set()
