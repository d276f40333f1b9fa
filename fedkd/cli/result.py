"""What a command says at its end: what came out, where it lies, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from fedkd.cli.tables import print_table

if TYPE_CHECKING:
    from fedkd.results.recorded import RecordedRun


def report_result(places: Sequence[Path], stream: TextIO, *, beside: bool = False) -> None:
    """What came out, where it lies, and what to type next; ``beside`` each other, all results in a table at the end."""
    from fedkd.cli.baselines import comparison
    from fedkd.results.recorded import RecordedRun

    runs = [RecordedRun.read(place) for place in places]
    if not beside:
        print_summaries(runs, "accuracy", stream)
    of_all = places[0].parent / "report.html"  # of a group of seeds
    for page in [*([of_all] if len(runs) > 1 and of_all.exists() else []), *(run.path / "report.html" for run in runs)]:
        print(f"report: {page}", file=stream)
    print(f"next:   fedkd plot {' '.join(shlex.quote(str(run.path)) for run in runs)}", file=stream)
    if beside:
        print_table(comparison(runs), stream)


def write_group_of_seeds(folder: Path, places: Sequence[Path]) -> None:
    """Write report, figure and comparison of these runs into the folder that holds them."""
    from fedkd.results.files import writing
    from fedkd.results.group_files import write_group
    from fedkd.results.recorded import RecordedRun

    with writing(folder):
        write_group(folder, [RecordedRun.read(place) for place in places])


def print_summaries(runs: Sequence[RecordedRun], metric: str, stream: TextIO) -> None:
    """Last, best and mean of the last five (or as many as there are), for each group of seeds: the mean, its 95 % interval."""
    from fedkd.results.curves import headline, is_share, reading
    from fedkd.results.recorded import group_seeds
    from fedkd.results.row_keys import describe_key
    from fedkd.results.statistics import last_measured, summary

    for group in group_seeds(runs):
        results = [result for run in group.runs if (result := summary(run.rows, metric))]
        if not results:
            print(f"{group.label}: {metric} was never measured", file=stream)
            continue
        seeds = f"seed {group.runs[0].seed}" if len(results) == 1 else f"{len(results)} seeds, 95 % interval"
        readings = ((each.last, each.best, each.mean_last_five) for each in results)
        last, best, five = (reading(metric, values) for values in zip(*readings, strict=True))
        averaged = last_measured([result.averaged for result in results])
        whose = f" ({headline(group.runs[0])})" if metric == "accuracy" else ""
        name, highest = describe_key(metric).short, "best" if is_share(metric) else "highest"
        print(
            f"{group.label} ({seeds}): {name} last {last}, {highest} {best}, mean of the {averaged} {five}{whose}", file=stream
        )
