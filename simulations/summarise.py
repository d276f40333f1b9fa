"""Runs as a table: last and best accuracy with 95 % intervals over seeds, uploaded bytes and seconds.

python simulations/summarise.py simulations/results/fashion_mnist/*
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from fedkd.results.recorded import RecordedRun, find_runs
from fedkd.results.statistics import last_measured, mean_interval, sent_up, size, summary


def interval(values: list[float]) -> str:
    """Mean and half width of the 95 % t interval, in per cent."""
    mean, half = (100 * float(part) for part in mean_interval(values))
    return f"{mean:.1f} ± {half:.1f}" if np.isfinite(half) else f"{mean:.1f}"


def line(name: str, runs: list[RecordedRun]) -> str:
    """One line of the table: a method and its seeds."""
    found = [result for run in runs if (result := summary(run.rows))]
    up = sum(map(sent_up, runs[0].rows))
    seconds = float(np.mean([sum(row["seconds"] for row in run.rows) for run in runs]))
    columns = [name, interval([r.last for r in found]), interval([r.best for r in found])]
    columns += [interval([r.mean_last_five for r in found]), size(up), f"{seconds:.0f}", str(len(runs))]
    return f"| {' | '.join(columns)} |"


def main(paths: list[str]) -> None:
    """Print a table in Markdown, the state before training first."""
    groups = {Path(path).name: find_runs([path]) for path in paths}
    averaged = last_measured([found.averaged for runs in groups.values() for run in runs if (found := summary(run.rows))])
    print(
        f"| method | last % | best % | mean of the {averaged} % | uploaded | seconds | seeds |\n|---|---|---|---|---|---|---|"
    )
    untrained = [row["accuracy"] for run in next(iter(groups.values())) for row in run.rows if row["round"] == 0]
    print(f"| before training | {interval(untrained)} | | | 0 B | 0 | {len(untrained)} |")
    for name, runs in groups.items():
        print(line(name, runs))


if __name__ == "__main__":
    main(sys.argv[1:])
