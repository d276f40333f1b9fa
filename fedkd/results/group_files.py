"""What stands beside the runs of a group, seeds or a whole grid: their report, the figure of all of them, the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fedkd.base.errors import InputError
from fedkd.results.comparison.comparison import compare
from fedkd.results.comparison.formats import write_comparison
from fedkd.results.recorded import RecordedRun, group_seeds


def write_group(folder: Path, runs: Sequence[RecordedRun]) -> None:
    """Write ``convergence.png`` and ``.svg``, ``report.html``, ``comparison.md`` and ``.csv`` into the folder of the runs.

    Runs of other data have no common report, and what may not stand in one column no comparison: these are left out, and those
    of an earlier sweep are deleted. The figure says in its legend what each is.
    """
    from fedkd.results.figures.convergence import convergence
    from fedkd.results.report import write_report
    from fedkd.results.report.sources import refuse_mixed

    convergence(runs, folder / "convergence.png")
    for name in ("report.html", "comparison.md", "comparison.csv"):
        (folder / name).unlink(missing_ok=True)
    with suppress(InputError):
        refuse_mixed(runs)
        write_report(runs, folder / "report.html")
    with suppress(InputError):
        comparison = compare(group_seeds(runs))
        for suffix in (".md", ".csv"):
            write_comparison(comparison, folder / f"comparison{suffix}")
