"""The table of rounds: every number that a round's row has and that fits a column."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.report.cells import cell
from fedkd.results.report.names import in_detail
from fedkd.results.report.parts import Section, Table
from fedkd.results.row_keys import OF_ROUNDS, describe_key, find_entry


def rounds(groups: Sequence[Seeds]) -> Section:
    """The section, of the first seed of each group."""
    return Section("rounds", "Rounds", tables=[_table(run, more) for more, run in in_detail(groups) if run.rows])


def _table(run: RecordedRun, more: str) -> Table:
    keys = list(columns(run))
    rows = [[str(row["round"]), *(cell(key, row.get(key)) for key in keys)] for row in run.rows]
    return Table(f"All rounds{more}", ["round", *(describe_key(key).short for key in keys)], rows)


def columns(run: RecordedRun) -> Iterator[str]:
    """The keys to show: those some round has, without one that only repeats the headline accuracy, or the raw bytes."""
    order = {entry.key: place for place, entry in enumerate(OF_ROUNDS)}
    written = dict.fromkeys(key for row in run.rows for key in row if key != "round")
    places = {key: order[entry.key] for key in written if (entry := find_entry(key)) and entry.key in order}
    for key in sorted(places, key=lambda key: places[key]):
        present = any(row.get(key) is not None and (key != "epsilon" or "epsilon_of" in row) for row in run.rows)
        like = key.removeprefix("coded_") if key.startswith("coded_") else "accuracy"
        repeats = key != like and all(_equal(row.get(key), row.get(like)) for row in run.rows)
        if present and not repeats:
            yield key


def _equal(one: float | None, other: float | None) -> bool:
    """Whether two readings are the same number, summed in whatever order and precision."""
    return one == other if one is None or other is None else math.isclose(one, other, rel_tol=1e-6)
