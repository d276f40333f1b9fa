"""fedkd compare: groups of seeds held against each other."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from fedkd.cli.tables import print_table

if TYPE_CHECKING:
    from fedkd.results.comparison.tables import Table


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Runs, directories of seeds, or a directory of those.", show_default=False)
    ],
    metric: Annotated[str, typer.Option(help="The key of metrics.jsonl to compare.")] = "accuracy",
    last_k: Annotated[int, typer.Option(help="Of how many of the last measured rounds the mean is.")] = 5,
    reading: Annotated[str, typer.Option(help="What differences are taken of: last, best or mean.")] = "last",
    baseline: Annotated[
        str,
        typer.Option(
            metavar="GROUP",
            help="Whom all are held against: a label, a strategy or a directory [default: the first; of a directory, by name].",
        ),
    ] = "",
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="Hold every group against every other one.")] = False,
    target: Annotated[float | None, typer.Option(help="Say what it took to reach this value of the metric, e.g. 0.8.")] = None,
    per_client: Annotated[
        bool, typer.Option("--per-client", help="Say how the accuracy is spread over clients: worst tenth, fairness.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write it too: numbers as .csv, tables as .md or .tex (booktabs).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare RUNS: accuracies with 95 % intervals over seeds, paired differences, and what it took to reach a target.

    Unfinished and failed runs are left out, with a note. Refused are groups that may not stand in one column: a linear probe
    beside a classifier, clients' own test samples beside the global test set, other data.
    """
    from fedkd.results.comparison.comparable import only_complete
    from fedkd.results.comparison.comparison import compare as compare_groups
    from fedkd.results.comparison.formats import check_suffix, to_json, write_comparison
    from fedkd.results.comparison.tables import tables_of
    from fedkd.results.recorded import find_runs, group_seeds

    if out is not None:
        check_suffix(out)
    if baseline and all_pairs:
        from fedkd.base.errors import InputError

        raise InputError("give --baseline or --all-pairs, not both")
    comparison = compare_groups(
        group_seeds(only_complete(find_runs(runs))),
        metric=metric,
        last_k=last_k,
        reading=reading,
        baseline=baseline,
        all_pairs=all_pairs,
        target=target,
        per_client=per_client,
    )
    if as_json:
        print(json.dumps(to_json(comparison), indent=1))
    else:
        print_tables(tables_of(comparison), sys.stdout)
    if out is not None:
        print(write_comparison(comparison, out), file=sys.stderr if as_json else sys.stdout)


def print_tables(tables: Sequence[Table], stream: TextIO) -> None:
    """Print tables, each with its title above and its notes below it."""
    for number, table in enumerate(tables):
        print(f"{chr(10) if number else ''}{table.title}", file=stream)
        print_table([dict(row) for row in table.rows], stream)
        for note in table.notes:
            print(f"  {note}", file=stream)
