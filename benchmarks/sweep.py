"""``fedkd sweep`` on two cores against the loop of a shell that runs the same cells one after the other.

    python benchmarks/sweep.py                        # 20 cells, three repeats: about half an hour on two idle cores
    python benchmarks/sweep.py --seeds 1 --repeats 1  # a try

Both make the same runs of digits, four strategies with five seeds, in a new directory; they take turns, and which is first
changes from repeat to repeat, so that both meet the same load. Of each repeat one line is appended: seconds of both, their
ratio, and whether all runs came out the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fedkd.results.history import TIMES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "sweep.jsonl"
FEDKD = [sys.executable, "-c", "from fedkd.cli import main; main()"]
FILE = ROOT / "simulations" / "digits_fedmd.toml"
STRATEGIES = ("fedmd", "dsfl", "fd", "local")


def fedkd(*words: str) -> None:
    """One command, in a process of its own. Ends this one where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*FEDKD, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"fedkd {' '.join(words)} failed: {done.stderr}")


def loop(folder: Path, seeds: int) -> None:
    """What a shell does: ``for ...; do fedkd run ...; done``."""
    for strategy in STRATEGIES:
        other = [] if strategy == "fedmd" else ["--set", f"strategy={strategy}"]
        for seed in range(seeds):
            out = folder / f"strategy={strategy}" / f"seed-{seed}"
            fedkd("run", str(FILE), *other, "--seed", str(seed), "--quiet", "--out", str(out))


def sweep(folder: Path, seeds: int) -> None:
    """The same cells by one command."""
    grid = f"strategy={','.join(STRATEGIES)}"
    fedkd("sweep", str(FILE), "--seeds", f"0-{seeds - 1}", "--grid", grid, "--jobs", "2", "--out", str(folder))


CONTENDERS: dict[str, Callable[[Path, int], None]] = {"loop": loop, "sweep": sweep}


def results_of(folder: Path) -> dict[str, list[dict[str, object]]]:
    """The rows of every run below a folder, without what a clock measured."""
    return {
        str(file.parent.relative_to(folder)): [
            {key: value for key, value in json.loads(line).items() if key not in TIMES} for line in file.open()
        ]
        for file in sorted(folder.rglob("metrics.jsonl"))
    }


def repeat(number: int, seeds: int) -> dict[str, object]:
    """Both once, in turns."""
    seconds, results = {}, {}
    for name in sorted(CONTENDERS, reverse=bool(number % 2)):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            CONTENDERS[name](Path(folder) / "cells", seeds)
            seconds[name] = round(time.perf_counter() - began, 1)
            results[name] = results_of(Path(folder) / "cells")
    ratio = round(seconds["sweep"] / seconds["loop"], 3)
    return {**seconds, "ratio": ratio, "same": results["loop"] == results["sweep"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each of the four strategies")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="print the lines only")
    asked = parser.parse_args()
    machine = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
    for number in range(asked.repeats):
        load = round(os.getloadavg()[0], 2)
        found = {"cells": len(STRATEGIES) * asked.seeds, **repeat(number, asked.seeds), "load": load, "machine": machine}
        print(json.dumps(found), flush=True)
        if not asked.dry:
            with RESULTS.open("a") as file:
                file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
