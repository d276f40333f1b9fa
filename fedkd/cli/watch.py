"""`fedkd watch`: look on while a run goes on elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fedkd.base.errors import InputError

#: Seconds from one look at the run's files to the next.
PAUSE = 0.5


def watch(
    run: Annotated[Path, typer.Argument(help="The directory of a run, here or on a shared disk.", show_default=False)],
    once: Annotated[bool, typer.Option("--once", help="Show how far it is and end.")] = False,
) -> None:
    """Show RUN's rounds as they come, until it ends or Ctrl-C; the run goes on without it."""
    from fedkd.results.live_table import display
    from fedkd.results.lock import is_locked
    from fedkd.results.logs import read_metrics
    from fedkd.results.progress import read_progress
    from fedkd.results.recorded import RecordedRun

    there = RecordedRun.read(run)
    rounds, seen = int(there.experiment["rounds"]), 0
    with display(f"{run}  (Ctrl-C ends the watching, not the run)", rounds) as shown:
        while True:
            writes = is_locked(run)  # before its rows are read, so that none is missed
            if not run.is_dir():
                raise InputError(f"{run} was removed")
            rows = read_metrics(run)
            for row in rows[seen:]:
                shown.row(row)
            seen = len(rows)
            if writes and (progress := read_progress(run)) and progress.round >= seen:
                shown.progress(progress)
            if once or not writes:
                break
            time.sleep(PAUSE)
    if writes:
        print(f"it goes on: {seen - 1 if seen else 0} of {rounds} rounds are over")
    elif RecordedRun.read(run).finished:
        print(f"it is over: see {run / 'report.html'}")
    else:
        print(f"nobody runs it now, {max(seen - 1, 0)} of {rounds} rounds are over: go on with `fedkd resume {run}`")
