"""Accuracy of each class over the rounds, and of all runs after the last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.report.cells import cell, with_interval
from fedkd.results.report.heat_map import heat_map, lowest_and_highest
from fedkd.results.report.names import class_names, in_detail
from fedkd.results.report.parts import Figure, Panel, Section, Table
from fedkd.results.statistics import mean_interval

KEY = "class_accuracy"


def classes(groups: Sequence[Seeds]) -> Section:
    """The section; where several groups were measured, a table of their last rounds too."""
    figures = [figure for more, run in in_detail(groups) for figure in _figure(run, more)]
    measured = [group for group in groups if all(_rows(run) for run in group.runs)]
    tables = [_last(measured)] if len(measured) > 1 and len({_count(group.runs[0]) for group in measured}) == 1 else []
    intro = "The headline accuracy, over the test samples of one class at a time." if figures else ""
    return Section("classes", "Classes", intro, figures, tables)


def _rows(run: RecordedRun) -> list[tuple[int, list[float | None]]]:
    return [(row["round"], row[KEY]) for row in run.rows if isinstance(row.get(KEY), list) and row[KEY]]


def _count(run: RecordedRun) -> int:
    return len(_rows(run)[-1][1])


def _figure(run: RecordedRun, more: str) -> list[Figure]:
    if not (rows := _rows(run)):
        return []
    names, rounds = class_names(run, _count(run)), [str(round) for round, _ in rows]
    table = np.array([values for _, values in rows], dtype=np.float64).T  # (C, R)
    last = table[:, -1]
    finding = "No class was measured in the last round."
    if found := lowest_and_highest(last):
        worst, best = found
        finding = (
            f"Accuracy of {len(names)} classes by round. In round {rounds[-1]} class {names[worst]} has the lowest, "
            f"{cell('accuracy', float(last[worst]))}, class {names[best]} the highest, {cell('accuracy', float(last[best]))}."
        )
    said = [["" if np.isnan(value) else f"{100 * value:.1f}" for value in row] for row in table]
    drawing = heat_map(table, names, rounds, names=("class", "round"), finding=finding, low=0.0, high=1.0, said=said)
    what = "Accuracy (%) by class and round"
    rows_of_table = [[name, *values] for name, values in zip(names, said, strict=True)]
    return [
        Figure(
            f"{what}, from 0 (dark) to 100 (light){more}", [Panel("", drawing)], Table(what, ["class", *rounds], rows_of_table)
        )
    ]


def _last(groups: Sequence[Seeds]) -> Table:
    """The last measured round of each group, the mean over its seeds."""
    of_groups = [np.array([_rows(run)[-1][1] for run in group.runs], dtype=np.float64) for group in groups]  # (S, C) each
    readings = [mean_interval(values) for values in of_groups]
    names = class_names(groups[0].runs[0], _count(groups[0].runs[0]))
    rows = [
        [name, *(with_interval("accuracy", float(mean[place]), float(half[place])) for mean, half in readings)]
        for place, name in enumerate(names)
    ]
    return Table("Accuracy by class after each run's last measured round", ["class", *(group.label for group in groups)], rows)
