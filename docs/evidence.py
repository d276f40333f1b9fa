"""What stands beside fedkd's numbers: others' code on the same tensors, and in the same runs.

Each comparison becomes one ``Evidence``, with a verdict that follows from its numbers alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedkd.base.errors import InputError, did_you_mean
from fedkd.results.statistics import mean_interval

VERIFIED, DIFFERS, NOT = "verified", "differs because", "not verified"
#: Numbers of the same tensors agree where they are no further apart, over the largest of them: an epsilon leaves that much.
SAME = 1e-6
#: An interval of a difference of accuracies that is wider to each side, in points, tells nothing.
WIDE = 3.0

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Evidence:
    """One comparison: of which row, beside what, both numbers as texts, and what follows."""

    name: str
    beside: str
    there: str
    here: str
    verdict: str


def lines_of(file: Path, *needed: str) -> list[Line]:
    """The lines of a file of results, each with these keys.

    Raises:
        InputError: no file, a line that is no JSON, or one that lacks a key.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file of results: run the benchmark that writes it, or take its entry out")
    found: list[Line] = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{file}, line {number}: no JSON ({error.msg}): delete what a cut-off run left") from None
        for key in needed:
            if key not in line:
                raise InputError(f"{file}, line {number}: no {key!r}, which every line must have: write it again")
        found.append(line)
    return found


def row_of(name: str, known: Mapping[str, str], where: str) -> str:
    """The row of a name.

    Raises:
        InputError: it has none.
    """
    if name not in known:
        raise InputError(f"{where}: {name!r} is no strategy, loss, target or reduction: {did_you_mean(name, sorted(known))}")
    return known[name]


def points(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean and half its 95 % interval.

    >>> points([1.0, 2.0, 3.0], signed=True), points([0.5])
    ('+2.0 ± 2.5', '0.5')
    """
    mean, half = interval(values)
    return (f"{mean:+.1f}" if signed else f"{mean:.1f}") + (f" ± {half:.1f}" if len(values) > 1 else "")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half its 95 % interval, as numbers."""
    mean, half = mean_interval(values)
    return float(mean), float(half)


# ---- others' code on the same tensors


def of_official_code(file: Path, known: Mapping[str, str]) -> list[Evidence]:
    """Lines of ``benchmarks/against_official.py``."""
    found = []
    for line in lines_of(file, "name", "code", "commit", "where", "what", "seeds", "there", "here", "difference"):
        name = row_of(line["name"], known, str(file))
        beside = f"[{line['code']}](https://github.com/{line['code']}) at {line['commit'][:7]}, `{line['where']}`"
        beside += f": {line['what']}" if line["what"] else ""
        there, here = (f"{_number(line[side])} ({count(line['seeds'], 'seed')})" for side in ("there", "here"))
        found.append(Evidence(name, beside, there, here, _of_tensors(line)))
    return found


def _of_tensors(line: Line) -> str:
    apart = {"values": line["difference"]}
    if "gradient_difference" in line:
        apart["gradients"] = line["gradient_difference"]
    how = ", ".join(f"{what} {size:.0e}" for what, size in apart.items())
    if max(apart.values()) <= SAME:
        return f"{VERIFIED}: largest difference of {how}"
    return f"{DIFFERS} {line['because']} ({how})" if line.get("because") else f"{NOT}: differs ({how}), not explained"


def _number(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{mean:.4g} ± {half:.2g}" if len(values) > 1 else f"{mean:.4g}"


# ---- others' code in the same runs


def side_by_side(
    file: Path, known: Mapping[str, str], explained: Mapping[str, str], same: Mapping[str, str] = MappingProxyType({})
) -> tuple[list[Evidence], list[str]]:
    """Lines with ``method``, ``seed``, ``code`` ("fedkd" or a rival's name), ``accuracy``; and methods that have no row.

    A method may have a variant behind a comma, "kd, momentum"; what has no line of fedkd is compared with nothing, nor is
    fedkd with itself ("fedkd, nudged").
    ``explained`` says of "FILE METHOD CODE" why the two differ, where that is known; ``same``, what fedkd calls that method,
    where it has another name here.
    """
    groups: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for line in lines_of(file, "method", "seed", "code", "accuracy"):
        method = same.get(f"{file.name} {line['method']} {line['code']}", line["method"])
        by_code = groups.setdefault((method, _common_setting(line)), {})
        by_code.setdefault(line["code"], {})[line["seed"]] = 100 * float(line["accuracy"])
    found, strange = [], dict[str, None]()
    for (method, setting), codes in groups.items():
        called, _, variant = method.partition(", ")
        name = called.lower().replace("-", "_").replace(" ", "_")
        if name not in known:
            strange[called] = None
            continue
        ours = codes.pop("fedkd", {})
        theirs_by_code = {code: theirs for code, theirs in codes.items() if ours and not code.startswith("fedkd, ")}
        for code, theirs in theirs_by_code.items():
            there, here = (f"{points([*each.values()])} % ({count(each, 'seed')})" for each in (theirs, ours))
            how = [variant, json.loads(setting).get("name", ""), f"[{file.name}](../benchmarks/results/{file.name})"]
            verdict = of_accuracies(ours, theirs, explained.get(f"{file.name} {method} {code}", ""))
            found.append(Evidence(known[name], f"{code}, side by side: {', '.join(filter(None, how))}", there, here, verdict))
    return found, [*strange]


def _common_setting(line: Line) -> str:
    """What both codes are run with: all of a line's setting but what belongs to a code."""
    setting = line.get("setting", {})
    return json.dumps({key: setting[key] for key in setting if key not in ("code", "commit", "strategy")}, sort_keys=True)


def count(things: Mapping[int, Any] | Sequence[Any], word: str) -> str:
    """How many, in words.

    >>> count([1], "seed"), count([1, 2], "seed")
    ('1 seed', '2 seeds')
    """
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def of_accuracies(ours: Mapping[int, float], theirs: Mapping[int, float], because: str = "") -> str:
    """What follows from accuracies of both codes, in percent by seed; the difference is taken seed by seed.

    >>> of_accuracies({0: 80.0, 1: 81.0, 2: 82.0}, {0: 80.5, 1: 80.5, 2: 82.0})
    'verified: +0.0 ± 1.2 points apart'
    >>> of_accuracies({0: 80.0, 1: 81.0, 2: 82.0}, {0: 75.0, 1: 76.1, 2: 77.0})
    'not verified: +5.0 ± 0.1 points apart, not explained'
    >>> of_accuracies({0: 80.0, 1: 82.0, 2: 84.0}, {0: 10.0, 1: 10.0, 2: 10.0})
    'not verified: +72.0 ± 5.0 points apart, not explained'
    >>> of_accuracies({0: 80.0}, {0: 80.0})
    'not verified: fewer than two seeds in common'
    >>> of_accuracies({0: 80.0, 1: 81.0}, {0: 10.0, 1: 81.0}, "a net there ends at chance")
    'not verified: +35.0 ± 444.7 points apart, an interval too wide to tell: a net there ends at chance'
    """
    common = sorted(ours.keys() & theirs.keys())
    if len(common) < 2:
        return f"{NOT}: fewer than two seeds in common"
    differences = [ours[seed] - theirs[seed] for seed in common]
    mean, half = interval(differences)
    apart = f"{points(differences, signed=True)} points apart"
    if abs(mean) > half:
        return f"{DIFFERS} {because} ({apart})" if because else f"{NOT}: {apart}, not explained"
    if half > WIDE:
        return f"{NOT}: {apart}, an interval too wide to tell{because and ': '}{because}"
    return f"{VERIFIED}: {apart}"
