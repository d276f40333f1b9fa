"""Config as text: TOML out, dotted keys in and out, and the line where a key stands."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedkd.base.errors import InputError

Scalar = bool | int | float | str


def read_toml(path: str | Path) -> tuple[str, dict[str, Any]]:
    """The text of an experiment file, and what it says. InputError where there is none, or it is no TOML."""
    if not isinstance(path, str | Path):
        raise InputError(f"from_toml reads a file: give its path, got {path!r}")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # Notepad puts a mark in front
        return text, tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"no experiment file {path}: name an existing .toml file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a TOML file in UTF-8: save it in this encoding") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory: name a .toml file in it") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not a TOML file: {error}") from None


def flatten(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Nested tables as dotted keys; lists as comma strings (``"16,"`` for one element); empty tables vanish."""
    flat: dict[str, Scalar] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = _commas(value) if isinstance(value, list | tuple) else value
    return flat


def _commas(values: Sequence[Any]) -> str:
    return ",".join(map(str, values)) + ("," if len(values) == 1 else "")


def unflatten(flat: Mapping[str, Any], into: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Dotted keys as nested tables, laid over ``into`` (which is left as it was)."""
    tables = {key: unflatten({}, value) if isinstance(value, Mapping) else value for key, value in (into or {}).items()}
    for key, value in flat.items():
        *path, last = key.split(".")
        table = tables
        for part in path:
            below = table.get(part, {})
            if part == "strategy" and isinstance(below, str):  # short for a table with a name
                below = {"name": below}
            if not isinstance(below, Mapping):
                raise InputError(f"{key}: {part} is one value and holds no keys: set {key.partition(f'.{last}')[0]} itself")
            table[part] = dict(below)
            table = table[part]
        table[last] = value
    return tables


def parse_value(text: str) -> Any:
    """A value as typed on a command line: TOML where it is TOML, a list where it has commas, else the text itself.

    >>> parse_value("0.1"), parse_value("true"), parse_value("8,16"), parse_value("resnet18")
    (0.1, True, [8, 16], 'resnet18')
    """
    for candidate in (text, f"[{text}]" if "," in text else text):
        try:
            read = tomllib.loads(f"value = {candidate}")
        except (tomllib.TOMLDecodeError, RecursionError):
            continue
        if len(read) == 1 and isinstance(value := read["value"], bool | int | float | str | list | dict):  # and no date
            return value
    return text


def line_of(text: str, key: str) -> int:
    """The line, from 1, where a dotted key stands in TOML text; 0 if it stands nowhere."""
    parts, section = key.split("."), ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line):
            section = header[1].replace('"', "")
            if section == key:
                return number
        elif assigned := re.match(r"""\s*["']?([\w.-]+)["']?\s*=""", line):
            full = f"{section}.{assigned[1]}" if section else assigned[1]
            if full == key or (key.startswith(f"{full}.") and re.search(rf"\b{re.escape(parts[-1])}\b", line)):
                return number
    return 0


def places_of_error(message: str) -> list[str]:
    """The keys that an error may be about: what its message quotes below the key that it begins with, then this key."""
    key = re.match(r"(?:unknown (?:key )?)?'?([\w.:-]*\w)", message)
    below = re.findall(r"'([\w-]+)'", message)
    return [*(f"{key[1]}.{name}" for name in below), key[1]] if key else []


@contextmanager
def located(file: str, text: str, *, besides: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """Say behind an InputError of the block where in the file its key stands, or that it or its value was given ``besides``."""
    try:
        yield
    except InputError as error:
        places = places_of_error(str(error))
        line = next((line for place in places if (line := line_of(text, place))), 0)
        quoted = re.search(r"'([^']+)'", str(error))
        above = {key[: key.index(".", end)] for key in besides for end in range(len(key)) if "." in key[end:]}
        named = any(place in besides for place in places) or (not line and any(place in above for place in places))
        if named or (quoted and quoted[1] in besides.values()):
            raise InputError(f"{error} (given beside the file, as by --set)") from None
        raise InputError(f"{error} ({file}:{line})" if line else f"{error} ({file})") from None


def to_toml(tables: Mapping[str, Any]) -> str:
    """TOML text of nested plain tables: scalars first, then one section a table."""
    lines = [f"{_key(key)} = {_value(value)}" for key, value in tables.items() if not isinstance(value, Mapping)]
    return "\n".join([*lines, *_sections(tables, "")]) + "\n"


def _sections(tables: Mapping[str, Any], prefix: str) -> list[str]:
    lines: list[str] = []
    for key, table in tables.items():
        if isinstance(table, Mapping):
            own = {name: value for name, value in table.items() if not isinstance(value, Mapping)}
            if own:
                lines += [
                    "",
                    f"[{prefix}{_key(key)}]",
                    *(f"{_key(name)} = {_value(value)}" for name, value in own.items()),
                ]
            lines += _sections(table, f"{prefix}{_key(key)}.")
    return lines


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name) else json.dumps(name, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | str) else repr(value)
