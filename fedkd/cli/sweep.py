"""fedkd sweep: a grid of runs."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from fedkd.base.errors import InputError, RunFailed
from fedkd.cli.compare import print_tables
from fedkd.cli.launch import parse_changes, parse_seeds
from fedkd.cli.tables import print_table

if TYPE_CHECKING:
    from fedkd.engine.cells import Cell, State
    from fedkd.engine.sweep.carry_out import Outcome


def sweep(
    file: Annotated[Path, typer.Argument(help="The experiment, a TOML file; or pyproject.toml of an app.", show_default=False)],
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=VALUE,VALUE", help="An axis, e.g. strategy=fedmd,dsfl or data.alpha=0.1,1.0."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Several seeds, e.g. 0-4 or 0,3,7 [default: the file's].")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="How many cells at once, on Ray [default: what cores and memory allow].")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replaces a key in all cells, e.g. rounds=5.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The directory of all cells [default: runs/FILE-sweep].")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show the cells and how long they would take; run none.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: an object a line.")] = False,
) -> None:
    """Run FILE once for every combination of the grid's values and seeds.

    All cells are checked before the first starts. What is finished is skipped and what was stopped goes on, so the same command
    goes on with a sweep. A cell that fails stops no other.
    """
    numbers = None if seeds is None else parse_seeds(seeds)
    place = out or Path("runs") / f"{file.resolve().parent.name if file.name == 'pyproject.toml' else file.stem}-sweep"
    with _stoppable():
        from fedkd.engine.sweep.axes import cells_of_grid, parse_axes
        from fedkd.engine.sweep.carry_out import fitting

        cells = cells_of_grid(file, parse_changes(changes or []), parse_axes(grid or []), numbers, place)
        names = {cell.out: cell.out.relative_to(place).as_posix() for cell in cells}
        states = {cell.out: cell.state for cell in cells}
        left = _left(cells, states)
        at_once = min(jobs or fitting(left or cells), max(1, len(left)))
        if plan:
            _print_plan(cells, names, states, at_once, as_json=as_json)
            return
        if not as_json:
            print(
                f"{place}: {len(cells)} cell{'s' if len(cells) > 1 else ''}, {len(cells) - len(left)} done, {at_once} at once",
                flush=True,
            )
        failures = _run(left, names, states, at_once, as_json=as_json)
        _report(place, cells, failures, sys.stderr if as_json else sys.stdout)
    if failures:
        for path, outcome in failures.items():
            print(f"fedkd: {path} failed: {outcome.failure}", file=sys.stderr)
        raise RunFailed(f"{len(failures)} of {len(cells)} cells failed, {next(iter(failures))} first")


@contextmanager
def _stoppable() -> Iterator[None]:
    """End on Ctrl-C with the command that goes on, which is the same one: what is done stays."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped; go on with: fedkd {shlex.join(sys.argv[1:])}", file=sys.stderr)
        raise SystemExit(130) from None


def _left(cells: Sequence[Cell], states: Mapping[Path, State]) -> list[Cell]:
    from fedkd.engine.cells import State

    return [cell for cell in cells if states[cell.out] is not State.DONE]


def _run(
    left: Sequence[Cell], names: Mapping[Path, str], states: Mapping[Path, State], jobs: int, *, as_json: bool
) -> dict[Path, Outcome]:
    """Run the cells that are left; what became of those that failed."""
    from fedkd.cli.cells_shown import shown_here
    from fedkd.engine.sweep.carry_out import carry_out

    with shown_here(names, states, as_json=as_json) as shown:
        outcomes = carry_out(left, shown, jobs=jobs) if left else {}
    return {path: outcome for path, outcome in outcomes.items() if outcome.failure}


def _print_plan(
    cells: Sequence[Cell], names: Mapping[Path, str], states: Mapping[Path, State], jobs: int, *, as_json: bool
) -> None:
    from fedkd.cli.cells_shown import plan_rows
    from fedkd.engine.sweep.estimate import estimate
    from fedkd.results.statistics import duration

    rows = plan_rows(cells, names, states)
    expected = estimate({cell.out: cell for cell in cells}, states, jobs)
    if as_json:
        print(json.dumps({"cells": rows, "jobs": jobs, "estimate": vars(expected)}, indent=1))
        return
    print_table(rows, sys.stdout)
    if not expected.source:
        print("nothing is left to do")
        return
    print(
        f"about {duration(expected.seconds)}, {jobs} at once (between {duration(expected.low)} and {duration(expected.high)}): "
        f"from {expected.source}; side by side each may take longer than alone"
    )


def _report(place: Path, cells: Sequence[Cell], failures: Mapping[Path, Outcome], stream: TextIO) -> None:
    """What came out of the cells that are done: tables, files, and what to type next."""
    from fedkd.cli.result import write_group_of_seeds
    from fedkd.results.comparison.comparison import compare
    from fedkd.results.comparison.tables import tables_of
    from fedkd.results.recorded import RecordedRun, group_seeds, in_order

    # As `compare` and `report` find them in the directory, so that differences are from the same group there as here.
    done = sorted((cell.out for cell in cells if cell.out not in failures), key=in_order)
    if not done:
        return
    write_group_of_seeds(place, done)
    try:
        print_tables(tables_of(compare(group_seeds([RecordedRun.read(each) for each in done]))), stream)
    except InputError as error:
        print(f"not compared: {error}", file=stream)
    if (report := place / "report.html").exists():
        print(f"report: {report}", file=stream)
    print(f"next:   fedkd {'compare' if report.exists() else 'report'} {shlex.quote(str(place))}", file=stream)
