"""Which runs may stand on one page, and where the page may be written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedkd.base.errors import InputError
from fedkd.results.comparison.comparable import other_data
from fedkd.results.recorded import RecordedRun


def refuse_mixed(runs: Sequence[RecordedRun]) -> None:
    """Raise InputError where runs are of different data: side by side their numbers would look comparable."""
    first = runs[0]
    for run in runs[1:]:
        if difference := other_data(first, run):
            cure = "write a report for each data set"
            raise InputError(f"{first.path} and {run.path} are on other data ({difference}): {cure}")


def refuse_finishing(runs: Sequence[RecordedRun], path: Path) -> None:
    """Raise InputError where the page would be taken for the one that a run writes when it has ended."""
    for run in runs:
        if not run.finished and path.resolve() == (run.path / "report.html").resolve():
            raise InputError(f"{path} is written when the run has ended, and it has not: give another file with --out")
