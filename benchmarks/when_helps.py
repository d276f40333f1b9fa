"""When does what help? Eight methods over training alone and over FedAvg, as one thing at a time varies, on two kinds of data.

    python benchmarks/when_helps.py                        # the cells not yet in results/when_helps.jsonl, seed by seed
    python benchmarks/when_helps.py --kinds signals --seeds 0
    python benchmarks/when_helps.py --table                # run nothing: print the advice, and what came of the plan
    python benchmarks/when_helps.py --page                 # run nothing: that into docs/results/when_helps.md, and its figures

The plan, written before the runs, is plans/when_helps.md; helps/plan.py is what is run, helps/data.py what the data are, which
are written to runs/when_helps. A cell is one run in a one-thread process, on the engine `together`; the last round counts.
A seed has 214 cells: about an hour on a core that other work shares.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cells import fill, finished
from given import positive
from helps.data import write_data
from helps.figures import draw_all
from helps.plan import DATA, KINDS, ROUNDS, Cell, Condition, plan
from helps.readings import of_whole_seeds
from helps.tables import tables, write_page

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "when_helps.jsonl"
PAGE, IMAGES = ROOT / "docs" / "results" / "when_helps.md", ROOT / "docs" / "images"


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results."""
    from fedkd import simulate
    from fedkd.results.environment import cpu_model
    from fedkd.results.statistics import sent_down, sent_up

    began = time.perf_counter()
    rows = simulate(cell.experiment(), "together").metrics
    return {
        "kind": cell.kind,
        "method": cell.method,
        "seed": cell.seed,
        "own": rows[-1]["client_accuracy"],
        "all": rows[-1]["accuracy"],
        "whose": rows[-1]["accuracy_of"],
        "up": sum(map(sent_up, rows)) / cell.condition.clients,
        "down": sum(map(sent_down, rows)) / cell.condition.clients,
        "seconds": time.perf_counter() - began,
        "cpu": cpu_model(),
        "setting": cell.setting(),
    }


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    at = Condition(**line["setting"]["condition"]).named()
    at += "" if line["setting"]["rounds"] == ROUNDS else f", {line['setting']['rounds']} rounds"
    return f"{line['kind']}, {at}: {line['method']}, seed {line['seed']}: own {line['own']:.3f}, all {line['all']:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=[*KINDS], metavar="KIND", choices=[*KINDS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--page", action="store_true", help="run nothing; write the page's tables and figures")
    given = parser.parse_args()
    if not (given.table or given.page):
        write_data(DATA)
        cells = plan(given.seeds, given.kinds)
        there = finished(cells, RESULTS)
        fill([cell for cell in cells if cell not in there], run, RESULTS, describe=describe, workers=given.workers)
    whole = plan(given.seeds)
    found = finished(whole, RESULTS)
    print("\n\n".join(tables(found, whole).values()))
    if given.page:
        write_page(PAGE, found, whole)
        draw_all(of_whole_seeds(found, whole), IMAGES)


if __name__ == "__main__":
    main()
