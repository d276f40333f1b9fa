"""Which runs may stand on one page, and where the page may be written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedkd.base.errors import InputError
from fedkd.results.recorded import RecordedRun


def refuse_mixed(runs: Sequence[RecordedRun]) -> None:
    """Raise InputError where runs are of different data: side by side their numbers would look comparable."""
    first = runs[0]
    for run in runs[1:]:
        if (was := _data(first)) != (now := _data(run)):
            told = f"{first.path} is of {was[0]!r} and {run.path} of {now[0]!r}" if was[0] != now[0] else _other(first, run)
            raise InputError(f"{told}: their numbers cannot be compared; write a report for each data set")


def refuse_finishing(runs: Sequence[RecordedRun], path: Path) -> None:
    """Raise InputError where the page would be taken for the one that a run writes when it has ended."""
    for run in runs:
        if not run.finished and path.resolve() == (run.path / "report.html").resolve():
            raise InputError(f"{path} is written when the run has ended, and it has not: give another file with --out")


def _data(run: RecordedRun) -> tuple[object, ...]:
    source = run.experiment.get("data.source", "")
    return (source, "", ()) if run.data is None else (run.data.source, run.data.content_hash, run.data.classes)


def _other(first: RecordedRun, run: RecordedRun) -> str:
    return f"{first.path} and {run.path} are both of {_data(run)[0]!r}, but of other samples or classes"
