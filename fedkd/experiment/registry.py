"""Names -> strategies: the one Strategy subclass in strategies/<name>.py, an entry point, or "my_module:MyStrategy"."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from fedkd.base.errors import InputError, did_you_mean
from fedkd.base.user_code import import_object
from fedkd.experiment.algorithm.algorithm import Algorithm

ENTRY_POINTS = "fedkd.strategies"
T = TypeVar("T")


@cache
def names() -> tuple[str, ...]:
    """The names of all strategies, shipped and from entry points, sorted; the folder is read once in a process."""
    shipped = {module.name for module in pkgutil.iter_modules(importlib.import_module("fedkd.strategies").__path__)}
    return tuple(sorted(shipped | set(_installed())))


def strategies() -> dict[str, type[Algorithm]]:
    """Every strategy by name."""
    return {name: load(name) for name in names()}


def load(name: str) -> type[Algorithm]:
    """The strategy class of this name. Raises InputError where there is none."""
    if ":" in name:
        return _checked(name, import_object(name))
    if name in _installed():
        return _checked(name, _installed()[name].load())
    if name not in names():
        raise InputError(f"strategy.name: unknown strategy {name!r}: {did_you_mean(name, names())}")
    module = importlib.import_module(f"fedkd.strategies.{name}")
    own = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
    return _checked(name, *(value for value in own if issubclass(value, Algorithm)))


def build(table: Mapping[str, Any]) -> Algorithm:
    """A strategy from its table: its name and its own fields."""
    cls = load(str(table.get("name", "fedavg")))
    return build_class(cls, {cls.renamed.get(key, key): value for key, value in table.items() if key != "name"})


def build_class(cls: type[T], table: Mapping[str, Any], *, key: str = "strategy") -> T:
    """A dataclass, a strategy's or of what is its part, from the values of its fields. InputError names the first bad one."""
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for name in table:
        if name not in known:
            raise InputError(f"unknown key '{key}.{name}': {did_you_mean(name, known)}")
    for field in fields(cls):  # type: ignore[arg-type]
        if isinstance(table.get(field.name), bool) and type(field.default) in (int, float):
            raise InputError(f"{key}.{field.name}: a number belongs here, got {table[field.name]}")
    _settle(cls)
    try:
        return TypeAdapter(cls).validate_python(table)
    except ValidationError as error:
        finding = error.errors(include_url=False)[0]
        where = ".".join(map(str, (key, *finding["loc"])))
        if isinstance(inner := finding.get("ctx", {}).get("error"), InputError):
            raise InputError(f"{where}: {inner}") from None
        raise InputError(f"{where}: {finding['msg'][0].lower()}{finding['msg'][1:]}, got {finding['input']!r}") from None


def _settle(cls: type) -> None:
    """Make a dataclass fit to be checked anywhere, at Ray's workers too, where a class of a script or a notebook is a copy.

    There, names in annotations that are text are not known any more, so they become types before the class travels; and
    ``MISSING``, which says that a field has no default, arrives as a copy that nobody would recognise.
    """
    hints: dict[str, Any] = {}
    for field in cls.__dataclass_fields__.values():  # type: ignore[attr-defined]
        for slot in ("default", "default_factory", "kw_only"):
            if isinstance(getattr(field, slot), type(MISSING)):
                setattr(field, slot, MISSING)
        if isinstance(field.type, str) and cls.__module__ == "__main__":
            hints = hints or get_type_hints(cls, include_extras=True)
            field.type = hints[field.name]


def describe(strategy: Algorithm) -> dict[str, Any]:
    """The table of a strategy: its name and its fields, the inverse of ``build``."""
    values = {field.name: getattr(strategy, field.name) for field in fields(strategy)}
    return {"name": name_of(type(strategy)), **values}


def name_of(cls: type[Algorithm]) -> str:
    """The name under which ``load`` finds this class."""
    if cls.__module__.startswith("fedkd.strategies."):
        return cls.__module__.rpartition(".")[2]
    path = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name, point in _installed().items() if point.value == path), path)


@cache
def _installed() -> dict[str, EntryPoint]:
    """Installed packages do not change while a process runs, and reading their metadata takes milliseconds."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _checked(name: str, *classes: Any) -> type[Algorithm]:
    if len(classes) != 1 or not (inspect.isclass(classes[0]) and issubclass(classes[0], Algorithm)):
        raise InputError(f"strategy.name: {name!r} must hold exactly one Strategy subclass, it holds {len(classes)}")
    return classes[0]
