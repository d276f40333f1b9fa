"""fedkd resume: go on with what was stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedkd.base.errors import RunFailed
from fedkd.cli.launch import carry_out_all, parse_changes, resumable
from fedkd.cli.result import report_result


def resume(
    run: Annotated[Path, typer.Argument(help="A run's directory; of a directory of runs, all that are unfinished.")] = Path(
        "runs/latest"
    ),
    engine: Annotated[str | None, typer.Option(help="Where the clients run: in-process, together or ray.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replaces a key that may change, e.g. rounds=30.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no rounds, only the result.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a round on stdout.")] = False,
) -> None:
    """Go on with RUN from its last checkpoint, with the same experiment, data and code: it ends as it would have."""
    cells = resumable(run, parse_changes(changes or []))
    done = carry_out_all(cells, engine, quiet=quiet, as_json=as_json)
    if done and not (as_json and quiet):
        report_result(done, sys.stderr if as_json else sys.stdout)
    if failed := len(cells) - len(done):
        raise RunFailed(f"{failed} of {len(cells)} runs {'has' if failed == 1 else 'have'} nothing to show")
