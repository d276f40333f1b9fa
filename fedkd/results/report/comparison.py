"""What groups came to, side by side, and their paired differences: the tables of `fedkd compare`."""

from __future__ import annotations

from collections.abc import Sequence

from fedkd.base.errors import InputError
from fedkd.results.comparison.comparable import check_comparable
from fedkd.results.comparison.comparison import compare
from fedkd.results.comparison.tables import tables_of
from fedkd.results.recorded import Seeds
from fedkd.results.report.parts import Section, Table


def comparison(groups: Sequence[Seeds]) -> Section:
    """Of several groups whose runs all came to their end, and that may stand in one column; else nothing."""
    section = Section("comparison", "Comparison")
    if len(groups) < 2 or not all(run.complete and not run.failure for group in groups for run in group.runs):
        return section
    if refusal(groups):
        return section
    tables, notes = [], []
    for table in tables_of(compare(groups)):
        columns = list(table.rows[0])
        words = frozenset({columns.index(name) for name in ("accuracy of", "verdict") if name in columns})
        title = f"{table.title[0].upper()}{table.title[1:]}"
        tables.append(Table(title, columns, [list(row.values()) for row in table.rows], words))
        notes += [explained(note) for note in table.notes]
    return Section("comparison", "Comparison", tables=tables, pairs=notes)


def explained(note: str) -> tuple[str, str]:
    """A note as term and description.

    >>> explained("best: chosen on the test set"), explained("no seed is shared")
    (('best', 'chosen on the test set'), ('note', 'no seed is shared'))
    """
    term, colon, description = note.partition(": ")
    return (term, description) if colon and len(term) < 30 else ("note", note)


def refusal(groups: Sequence[Seeds]) -> str:
    """Why these groups may not stand in one column; empty where they may."""
    try:
        check_comparable(groups, "accuracy")
    except InputError as error:
        return str(error)
    return ""
