"""fedkd report: one page about a run, or about several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, or directories of runs.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The page, one file that needs nothing else.")] = Path("report.html"),
    serve: Annotated[
        bool, typer.Option("--serve", help="Write no file: show the page at 127.0.0.1, renewed as runs go on.")
    ] = False,
    port: Annotated[int, typer.Option(help="Where --serve listens; 0: any free port.", min=0, max=65535)] = 0,
) -> None:
    """Write a page about RUNS: what was run, how it was measured, what came out. Seeds of one experiment are one group."""
    from fedkd.results.files import writing
    from fedkd.results.recorded import find_runs
    from fedkd.results.report import write_report
    from fedkd.results.report.sources import refuse_finishing, refuse_mixed

    if serve:
        from fedkd.results.report.serve import serve_report

        serve_report(runs, port, on_start=lambda address: print(f"{address} (Ctrl-C ends it)", flush=True))
        return
    from fedkd.base.errors import InputError

    read = find_runs(runs)
    refuse_mixed(read)
    refuse_finishing(read, out)
    with writing(out, InputError):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_report(read, out)
    print(out)
