"""Does fedkd's FedAvg learn more slowly at first than pfl's? pfl's CIFAR-10 benchmark, and a loop by hand beside both.

    python benchmarks/pfl_cifar10_early.py --cifar10 DIR     # DIR holds train.parquet and test.parquet; else the hub
    python benchmarks/pfl_cifar10_early.py --table           # only print what is there, and write the page

Two seeds had said so. The plan, written before the runs: FedAvg by pfl, by fedkd and by a loop without any framework, 50
rounds, iid, the six seeds 2 to 7, none of them run before; each round's difference to the loop is paired by seed, and no seed
is added once the table is there. A change of plan when twelve cells of iid were there: Dirichlet too, its four seeds 3 to 6.
Cells are kept in results/pfl_cifar10_early.jsonl as they come.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from cells import finished, intervals_over, put_tables
from given import cifar10_folder, positive
from pfl_cifar10 import EVERY, FEDKD, LOOP, PAGE, PFL, Cell, run_those_left

RESULTS = Path(__file__).parent / "results" / "pfl_cifar10_early.jsonl"
ROUNDS = 50
SEEDS = {"iid": range(2, 8), "dirichlet": range(3, 7)}
CODES = (LOOP, PFL, FEDKD)
CELLS = [Cell(code, "fedavg", split, seed, ROUNDS) for split, seeds in SEEDS.items() for seed, code in product(seeds, CODES)]


def table(found: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A row a code: accuracy over the seeds each time it was tested; below, its difference to the loop's with the interval."""
    from fedkd.results.statistics import percent

    after = [f"after {rounds}" for rounds in range(EVERY, ROUNDS + 1, EVERY)]
    titles = ["split", "code", "seeds", *after, "CPU-seconds"]
    rows = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for split in SEEDS:
        lines = {
            code: [
                {**line, **dict(zip(after, line["curve"], strict=True))}
                for cell, line in found.items()
                if (cell.code, cell.split) == (code, split)
            ]
            for code in CODES
        }
        for code, each in lines.items():
            if each:
                cost = f"{sum(line['cpu_seconds'] for line in each) / len(each):.0f}"
                means = [percent([line[at] for line in each]) for at in after]
                rows.append(f"| {' | '.join([split, code, str(len(each)), *means, cost])} |")
        for code in (PFL, FEDKD):
            if pairs := len({line["seed"] for line in lines[code]} & {line["seed"] for line in lines[LOOP]}):
                more = [intervals_over(lines[code], lines[LOOP], at) for at in after]
                rows.append(f"| {' | '.join([split, f'{code} over the loop', str(pairs), *more, ''])} |")
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
        run_those_left(CELLS, RESULTS, given.cifar10, given.workers)
    made = table(finished(CELLS, RESULTS))
    print(made)
    put_tables(PAGE, {"early": made})


if __name__ == "__main__":
    main()
