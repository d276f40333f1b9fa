"""fedkd runs: what lies under a folder of runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkd.cli.tables import print_table

if TYPE_CHECKING:
    from fedkd.results.listed import ListedRun


def runs(
    folder: Annotated[Path, typer.Argument(help="The folder.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the runs below FOLDER, the newest first: how far each is, what it came to, its size and its age."""
    from fedkd.results.listed import list_runs

    found = list_runs(folder)
    if as_json:
        print(json.dumps([vars(run) for run in found], indent=1))
    elif not found:
        print(f"no runs in {folder}: `fedkd run FILE` makes one")
    else:
        print_table([in_words(run) for run in found], sys.stdout)


def in_words(run: ListedRun) -> dict[str, str]:
    """A run as the table has it."""
    from fedkd.results.statistics import duration, size

    return {
        "run": run.name,
        "strategy": run.strategy,
        "data": run.data,
        "seed": "" if run.seed is None else str(run.seed),
        "rounds": "" if run.rounds is None else f"{run.rounds_done}/{run.rounds}",
        "status": run.status,
        "accuracy": "" if run.accuracy is None else f"{100 * run.accuracy:.1f} %",
        "size": size(run.size),
        "age": duration(run.age),
    }
