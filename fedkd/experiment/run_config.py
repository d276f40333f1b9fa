"""A Flower run-config as the tables of an experiment. It holds names and numbers and never leads to code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedkd.base.config_text import Scalar, flatten, parse_value, unflatten
from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.functions import Functions
from fedkd.experiment.algorithm.net_shares import FUNCTION, is_given, read_nets

#: Keys of a run-config that are the app's own and no part of the experiment.
APP_KEYS = ("out", "resume")
_LISTS = {
    "train.milestones": int,
    "evaluation.label_shares": float,
    "data.feature_columns": str,
    "data.classes": str,
    "record.sinks": str,
    "uplink": str,
    "downlink": str,
}


def tables_of(flat: Mapping[str, Scalar], functions: Functions) -> dict[str, Any]:
    """The tables behind dotted keys, with the functions that were given put in. Undoes ``Experiment.to_flat``.

    Raises:
        InputError: the config names code that was not given.
    """
    tables = read_flat(flat)
    for argument, key, name in _code(tables):
        if getattr(functions, argument) is None or (argument == "nets" and name not in functions.nets):
            raise InputError(f"{key}: a config may not name code: pass {argument}= to the app for {name!r}")
    if FUNCTION in functions.nets:  # one function for all clients
        tables["nets"] = FUNCTION
    if functions.data is not None:
        tables.setdefault("data", {})["source"] = functions.data
    return tables


def read_flat(flat: Mapping[str, Scalar]) -> dict[str, Any]:
    """The tables behind dotted keys, lists as lists, without the app's own keys. InputError: a value where a table must be."""
    tables = unflatten({key: _listed(key, value) for key, value in flat.items() if key not in APP_KEYS})
    for name in ("data", "strategy", "net_options"):
        if not isinstance(tables.get(name, {}), dict):
            raise InputError(f"{name} is a table, not {tables[name]!r}: write {name}.KEY with the key that you mean")
    sections = (tables.get("data"), *tables.get("net_options", {}).values())
    for section in (section for section in sections if isinstance(section, dict)):
        section.update({key: parse_value(value) for key, value in section.items() if isinstance(value, str) and "," in value})
    return tables


def tables_of_file(tables: dict[str, Any]) -> dict[str, Any]:
    """What an experiment file says; of a Flower app's pyproject.toml, what stands under ``[tool.flwr.app.config]``.

    Raises:
        InputError: a pyproject.toml without that table.
    """
    if not {"project", "tool"} & tables.keys():
        return tables
    config: object = tables
    for name in ("tool", "flwr", "app", "config"):
        config = config.get(name) if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping):
        raise InputError("this is a project's file without [tool.flwr.app.config]: put the experiment's keys there")
    return read_flat(flatten(config))


def _listed(key: str, value: Scalar) -> object:
    if key not in _LISTS:
        return value
    try:
        return tuple(map(_LISTS[key], filter(None, str(value).split(","))))
    except ValueError:
        raise InputError(f"{key}: {value!r} is no list of numbers: set it to one, with commas") from None


def _code(tables: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What names code in a config: the argument of ``client_app`` that would give it, the key, the name."""
    nets = read_nets(tables.get("nets", ""))
    named = [("nets", "nets", name) for name in (nets if isinstance(nets, dict) else [nets])]
    named += [("nets", key, tables.get(key, "")) for key in ("server_net", "shared_net")]
    named += [("data", "data.source", tables.get("data", {}).get("source", ""))]
    named += [("strategy", "strategy.name", tables.get("strategy", {}).get("name", ""))]
    return ((argument, key, str(name)) for argument, key, name in named if ":" in str(name) or is_given(str(name)))
