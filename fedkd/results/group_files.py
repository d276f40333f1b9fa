"""What stands beside the runs of a group, seeds or a whole grid: the figure of all of them, and the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedkd.base.errors import InputError
from fedkd.results.comparison.comparison import compare
from fedkd.results.comparison.formats import write_comparison
from fedkd.results.recorded import RecordedRun, group_seeds


def write_group(folder: Path, runs: Sequence[RecordedRun]) -> list[Path]:
    """Write ``convergence.png`` and ``.svg``, ``comparison.md`` and ``.csv`` into the folder that holds these runs.

    Groups that may not stand in one column are not compared: the figure says in its legend what each is. Gives the files.
    """
    from fedkd.results.figures.convergence import convergence

    files = convergence(runs, folder / "convergence.png")
    try:
        comparison = compare(group_seeds(runs))
    except InputError:
        return files
    return [*files, *(write_comparison(comparison, folder / f"comparison{suffix}") for suffix in (".md", ".csv"))]
