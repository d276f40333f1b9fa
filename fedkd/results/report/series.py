"""The lines of groups of seeds: mean and 95 % band of a key against rounds, bytes or time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.report.cells import cell, number, with_interval
from fedkd.results.report.chart import Axis, Line
from fedkd.results.report.parts import Table
from fedkd.results.row_keys import SHARE, describe_key
from fedkd.results.statistics import mean_interval

Read = Callable[[Mapping[str, Any]], "float | None"]


def axis_of(key: str) -> Axis:
    """The axis of a key."""
    entry = describe_key(key)
    return Axis(entry.label, "share" if entry.unit == SHARE else "number") if entry.unit == SHARE else Axis(entry.axis)


def measured_rounds(group: Seeds, key: str) -> list[int]:
    """The rounds in which every seed of a group measured a key."""
    each = [{row["round"] for row in run.rows if number(row, key) is not None} for run in group.runs]
    return sorted(set.intersection(*each))


def line_of(group: Seeds, key: str, *, name: str = "", style: int = 0, against: Read | None = None) -> Line:
    """A key against rounds, or against what ``against`` sums over the rounds; the mean over seeds and its 95 % band."""
    rounds = measured_rounds(group, key)
    values = np.array([_at(run, key, rounds) for run in group.runs]).reshape(len(group.runs), len(rounds))  # (S, R)
    mean, half = mean_interval(values)
    places = (
        np.array(rounds, float) if against is None else np.mean([summed(run, against, rounds) for run in group.runs], axis=0)
    )
    if against is not None:
        places = np.where(places > 0, places, np.nan)  # nothing was sent yet: no place on a logarithmic axis
    shared = describe_key(key).unit == SHARE
    least, most = (0.0, 1.0) if shared else (-np.inf, np.inf)  # a share lies between, whatever a t interval says
    band = (np.clip(mean - half, least, most), np.clip(mean + half, least, most)) if len(group.runs) > 1 else ((), ())
    said = [with_interval(key, *pair) for pair in zip(mean.tolist(), half.tolist(), strict=True)]
    return Line(name or group.label, style, places.tolist(), mean.tolist(), said, *(list(edge) for edge in band))


def summed(run: RecordedRun, read: Read, rounds: Sequence[int]) -> list[float]:
    """What ``read`` says of each row, summed up to each of the rounds."""
    total, until = 0.0, {}
    for row in run.rows:
        total += read(row) or 0.0
        until[row["round"]] = total
    return [until[round] for round in rounds]


def _at(run: RecordedRun, key: str, rounds: Sequence[int]) -> list[float]:
    by_round = {row["round"]: row for row in run.rows}
    return [float(by_round[round][key]) for round in rounds]


def table_of(title: str, lines: Sequence[Line], first: str = "round") -> Table:
    """The numbers that lines against rounds show: a row a round, a column a line."""
    said = [dict(zip(line.x, line.values, strict=True)) for line in lines]
    rounds = sorted({x for line in lines for x in line.x})
    rows = [[f"{round:g}", *(each.get(round, "") for each in said)] for round in rounds]
    return Table(title, [first, *(line.name for line in lines)], rows)


def course(line: Line, key: str) -> str:
    """What became of a line, in words: where it began, where it ended, and its extreme between.

    >>> course(Line("fedmd", 0, [0, 1, 2], [0.1, 0.9, 0.8], ["", "", ""]), "accuracy")
    'fedmd from 10.0 % in round 0 to 80.0 % in round 2, highest 90.0 % in round 1'
    """
    known = [(x, y) for x, y in zip(line.x, line.y, strict=True) if np.isfinite(y)]
    if not known:
        return f"{line.name} was not measured"
    (first, start), (last, end) = known[0], known[-1]
    if len(known) == 1:
        return f"{line.name} {cell(key, end)} in round {last:g}"
    text = f"{line.name} from {cell(key, start)} in round {first:g} to {cell(key, end)} in round {last:g}"
    where, top = max(known, key=lambda pair: (pair[1], -pair[0]))
    return text if where in (first, last) else f"{text}, highest {cell(key, top)} in round {where:g}"
