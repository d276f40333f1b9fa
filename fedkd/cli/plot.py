"""fedkd plot: runs side by side, for a screen or for a paper."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkd.base.errors import InputError
from fedkd.cli.result import print_summaries

if TYPE_CHECKING:
    from fedkd.results.curves import Curve
    from fedkd.results.figures.panels import Drawing


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, or directories of seed runs.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The figure; .png and .svg are written side by side, .pdf if asked.")] = Path(
        "convergence.png"
    ),
    metric: Annotated[str, typer.Option(help="The key of metrics.jsonl to draw.")] = "accuracy",
    x: Annotated[
        list[str] | None,
        typer.Option(
            help="One panel only: rounds, bytes, seconds, cpu_seconds, joules or simulated_seconds. Again for more.",
            show_default="all but joules",
        ),
    ] = None,
    target: Annotated[float | None, typer.Option(help="A value to reach, as 0.8: drawn, and what it took is printed.")] = None,
    title: Annotated[str, typer.Option(help="Above the figure.")] = "",
    style: Annotated[str, typer.Option(help="As a venue prints: neurips, icml or ieee.")] = "",
    width: Annotated[
        str,
        typer.Option(help="column, page, or inches.", show_default="column of one panel, page of more"),
    ] = "",
    pdf: Annotated[bool, typer.Option("--pdf", help="Write a .pdf too, its fonts inside.")] = False,
) -> None:
    """Overlay RUNS, directories of runs or of seeds: accuracy against rounds, uploaded bytes, seconds and CPU seconds.

    Seeds of one experiment become their mean with a 95 % band. What is drawn is written as .csv beside the figure.
    """
    from fedkd.results.comparison.comparable import tell_incomparable
    from fedkd.results.curves import check_measured, curve
    from fedkd.results.figures.convergence import convergence
    from fedkd.results.figures.looks import look_of
    from fedkd.results.figures.panels import Drawing
    from fedkd.results.files import writing
    from fedkd.results.recorded import find_runs, group_seeds, without_failed

    drawing = Drawing(metric, tuple(x or ()), target, title, look_of(style, width))
    read = without_failed(find_runs(runs))
    check_measured(read, metric)
    tell_incomparable(group_seeds(read), metric)
    with writing(out, InputError):
        files = convergence(read, out, drawing, pdf=pdf, data=True)
    print_summaries(read, metric, sys.stdout)
    if target is not None:
        for line in (curve(group, metric) for group in group_seeds(read)):
            print(in_words(line, drawing))
    for file in files:
        print(file)


def in_words(line: Curve, drawing: Drawing) -> str:
    """What it took a curve to reach the target."""
    from fedkd.results.curves import reading
    from fedkd.results.figures.panels import spent_until

    spent, target = spent_until(line, drawing), reading(drawing.metric, [drawing.target or 0.0])
    who = f"{line.label} (mean of {len(line.seeds)} seeds)" if len(line.seeds) > 1 else line.label
    return f"{who}: reaches {target} {_cost(spent)}" if spent else f"{who}: never reaches {target}"


def _cost(spent: Mapping[str, float]) -> str:
    from fedkd.results.statistics import duration, energy, size

    parts = [f"in round {spent['rounds']:.0f}"]
    parts += [f"after {size(spent['bytes'])} of uploads"] if "bytes" in spent else []
    parts += [duration(spent["seconds"])]
    parts += [f"{duration(spent['cpu_seconds'])} of CPU time"] if "cpu_seconds" in spent else []
    parts += [energy(spent["joules"])] if "joules" in spent else []
    parts += [f"{duration(spent['simulated_seconds'])} of simulated time"] if "simulated_seconds" in spent else []
    return ", ".join(parts)
