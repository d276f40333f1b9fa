"""Does fedkd's FedAvg learn more slowly at first than pfl's? pfl's CIFAR-10 benchmark, and a loop by hand beside both.

    python benchmarks/pfl_cifar10_early.py --cifar10 DIR     # DIR holds train.parquet and test.parquet; else the hub
    python benchmarks/pfl_cifar10_early.py --table           # only print what is there, and write the page

Two seeds had said so. Said before these runs: FedAvg by pfl, by fedkd and by a loop without any framework, iid, 50 rounds, the
six seeds 2 to 7, none of which was looked at before; each round's difference to the loop is paired by seed, and no seed is
added after the table was seen. Cells are kept in results/pfl_cifar10_early.jsonl as they come.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from cells import fill, finished, intervals_over, put_tables
from given import cifar10_folder, positive
from pfl_cifar10 import EVERY, FEDKD, LOOP, PAGE, PFL, Cell, describe, images_of, run

RESULTS = Path(__file__).parent / "results" / "pfl_cifar10_early.jsonl"
ROUNDS, SEEDS = 50, range(2, 8)
CELLS = [Cell(code, "fedavg", "iid", seed, ROUNDS) for seed, code in product(SEEDS, (LOOP, PFL, FEDKD))]


def table(found: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A row a code: accuracy over the seeds each time it was tested, and below it what it is more than the loop's."""
    from fedkd.results.statistics import percent

    rounds = range(EVERY, ROUNDS + 1, EVERY)
    rows = [
        f"| code | seeds | {' | '.join(f'after {each}' for each in rounds)} | CPU-seconds |",
        "|---" * (3 + len(rounds)) + "|",
    ]
    lines = {
        code: [{**line, **dict(zip(rounds, line["curve"], strict=True))} for cell, line in found.items() if cell.code == code]
        for code in (LOOP, PFL, FEDKD)
    }
    for code, each in lines.items():
        cells = [percent([line[at] for line in each]) for at in rounds] if each else []
        cells += [f"{sum(line['cpu_seconds'] for line in each) / len(each):.0f}"] if each else []
        rows.append(f"| {' | '.join([code, str(len(each)), *cells])} |")
    for code in (PFL, FEDKD):
        more = [intervals_over(lines[code], lines[LOOP], at) for at in rounds]
        rows.append(f"| {' | '.join([f'{code} over the loop', str(len(lines[code])), *more, ''])} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cifar10", type=cifar10_folder, default="", metavar="DIR", help="train.parquet and test.parquet; default: the hub"
    )
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing; print the table and write the page")
    given = parser.parse_args()
    if not given.table:
        there = finished(CELLS, RESULTS)
        left = [cell for cell in CELLS if cell not in there]
        for cell in left:
            images_of(cell, given.cifar10)
        fill(left, partial(run, cifar10=given.cifar10), RESULTS, describe=describe, workers=given.workers)
    made = table(finished(CELLS, RESULTS))
    print(made)
    put_tables(PAGE, {"early": made})


if __name__ == "__main__":
    main()
