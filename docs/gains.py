"""What a method gains here, and what others say that it gains: ``docs/verified.toml`` puts the two beside each other."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evidence import NOT, Evidence, Line, count, interval, lines_of, points, row_of

from fedkd.base.errors import InputError, did_you_mean


def declared(file: Path) -> dict[str, Any]:
    """The file: ``runs``, what others ``said``, and what has been ``explained``.

    Raises:
        InputError: it is no TOML, or an entry lacks a key.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file, which says what is held beside what: restore it") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file.name}: no TOML: {error}") from None
    entries = [
        (f"runs.{name}", run, ("file", "page", "of", "key", "base", "over", "setting")) for name, run in table["runs"].items()
    ]
    for number, said in enumerate(table.get("said", []), start=1):
        entries.append((f"[[said]] {number}", said, ("name", "run", "source", "link", "over", "setting")))
        if ("gains" in said) == ("range" in said):
            raise InputError(f"{file.name}, [[said]] {number}: give one of gains and range, in points")
        if said.get("run") not in table["runs"]:
            cure = did_you_mean(said.get("run", ""), sorted(table["runs"]))
            raise InputError(f"{file.name}, [[said]] {number}: no run {said.get('run', '')!r}: {cure}")
    for number, entry in enumerate(table.get("explained", []), start=1):
        entries.append((f"[[explained]] {number}", entry, ("file", "method", "code", "because")))
    for number, entry in enumerate(table.get("same", []), start=1):
        entries.append((f"[[same]] {number}", entry, ("file", "method", "code", "here")))
    for where, entry, keys in entries:
        for key in keys:
            if key not in entry:
                raise InputError(f"{file.name}, {where}: no {key!r}: add it, or take the entry out")
    return table


def explained(file: Path) -> dict[str, str]:
    """Why accuracies differ, by "FILE METHOD CODE" of a run side by side."""
    return {f"{each['file']} {each['method']} {each['code']}": each["because"] for each in declared(file).get("explained", [])}


def same_methods(file: Path) -> dict[str, str]:
    """What fedkd calls "FILE METHOD CODE" of a run side by side, where the other code has another name for it."""
    return {f"{each['file']} {each['method']} {each['code']}": each["here"] for each in declared(file).get("same", [])}


def of_gains(file: Path, root: Path, known: Mapping[str, str]) -> list[Evidence]:
    """What each method gains here, beside what others say where they do."""
    table = declared(file)
    runs = table["runs"]
    gains = {run: _gains(entry, root, known, f"{file.name}, runs.{run}") for run, entry in runs.items()}
    found, told = [], set()
    for number, said in enumerate(table.get("said", []), start=1):
        name, run = row_of(said["name"], known, f"{file.name}, [[said]] {number}"), said["run"]
        here = gains[run].get(name, [])
        told.add((name, run))
        beside = (
            f"points over {said['over']}, [{said['source']}]({said['link']}): {said['setting']}; here {_measured(runs[run])}"
        )
        verdict = f"{NOT}: {_helps_there(said)} there, {helps(here)} here, in another and smaller setting"
        found.append(Evidence(name, beside, _there(said), _here(here), verdict))
    for run, by_name in gains.items():
        for name, here in by_name.items():
            if (name, run) not in told:
                verdict = f"{NOT}: {helps(here)} here; nothing to hold it against"
                found.append(Evidence(name, f"points {_measured(runs[run])}", "", _here(here), verdict))
    return found


def helps(values: Sequence[float]) -> str:
    """Whether it gains, in words.

    >>> helps([1.0, 1.1, 1.2]), helps([-1.0, -1.1, -1.2]), helps([-1.0, 1.0])
    ('gains', 'loses', 'gains nothing beyond the interval')
    """
    if len(values) < 2:
        return "one seed" if values else "not run"
    mean, half = interval(values)
    return "gains nothing beyond the interval" if abs(mean) <= half else "gains" if mean > 0 else "loses"


def _gains(run: Line, root: Path, known: Mapping[str, str], where: str) -> dict[str, list[float]]:
    """Row -> what each seed's run has over the baseline of the same seed, in points."""
    lines = [line for line in lines_of(root / run["file"], "seed") if line["seed"] in run.get("seeds", [line["seed"]])]
    base = _by_seed(_most_seeds(line for line in lines if run["base"].items() <= line.items()), run["key"])
    if not base:
        raise InputError(f"{where}: no line of {run['file']} is its base {run['base']}: correct it")
    names = run.get("names") or {name: name for name in known}
    for name in names.values():
        row_of(name, known, where)
    found: dict[str, list[float]] = {}
    for called, name in names.items():
        wanted = {run["of"]: called, **run.get("where", {})}
        values = _by_seed(_most_seeds(line for line in lines if wanted.items() <= line.items()), run["key"])
        gained = [100 * (values[seed] - base[seed]) for seed in values if seed in base]
        if gained and not run["base"].items() <= wanted.items():
            found[known[name]] = gained
    return found


def _most_seeds(lines: Iterable[Line]) -> list[Line]:
    """Those of the setting with the most seeds, the first of equals: a longer run of one seed is another thing."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(json.dumps(line.get("setting"), sort_keys=True), []).append(line)
    return max(groups.values(), key=len, default=[])


def _by_seed(lines: Iterable[Line], key: str) -> dict[int, float]:
    """Accuracies by seed, the last where a line has those of several rounds."""
    found = {line["seed"]: line[key] for line in lines if key in line}
    return {seed: float(value[-1] if isinstance(value, list) else value) for seed, value in found.items()}


def _there(said: Line) -> str:
    if "range" in said:
        return f"{said['range'][0]:+.1f} to {said['range'][1]:+.1f}"
    return f"{points(said['gains'], signed=True)} ({count(said['gains'], 'setting')})"


def _helps_there(said: Line) -> str:
    return ("gains" if min(said["range"]) > 0 else "gains or loses") if "range" in said else helps(said["gains"])


def _measured(run: Line) -> str:
    return f"over {run['over']}, [{run['setting']}]({run['page']})"


def _here(values: Sequence[float]) -> str:
    return f"{points(values, signed=True)} ({count(values, 'seed')})" if values else "not run"
