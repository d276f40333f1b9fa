"""Nets that differ: what each method that allows them reaches on clients' own tests and on all classes, and what it sends.

    python benchmarks/mixed_nets.py                     # the cells not yet in results/mixed_nets.jsonl, then the table
    python benchmarks/mixed_nets.py --only fedtgp local --seeds 0
    python benchmarks/mixed_nets.py --rounds 60 --only local fedproto fedtgp fedgh lg_fedavg --seeds 0    # a longer run
    python benchmarks/mixed_nets.py --table             # only print what is there

Fashion-MNIST: 20 clients share 4,000 images by a Dirichlet draw (alpha 0.3), and each tests on a fifth of its own; half have a
cnn, half an mlp, with features of one width; 1,000 public images without labels for the methods that want them, 500 validation
images, 2,000 images of all classes as the global test. Fifteen rounds of two epochs of Adam; a method's own steps on
public images come on top, and so do what it trains before its first round. All settings of a method are its defaults but those
of METHODS. A cell is one run in a one-thread process; two run side by side. The last round counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cells import fill, finished, intervals_over
from given import positive

if TYPE_CHECKING:
    from fedkd import Experiment

RESULTS = Path(__file__).parent / "results" / "mixed_nets.jsonl"
SETTING: dict[str, Any] = {
    "rounds": 15,
    "evaluate_every": 10**6,  # before the first round and after the last
    "nets": {"cnn": 0.5, "mlp": 0.5},
    "net_options": {"mlp": {"hidden": [128, 64]}},
    "train": {"epochs": 2, "batch_size": 16, "optimizer": "adam", "lr": 0.001},
    "data": {
        "source": "fashion_mnist",
        "train_limit": 5500,
        "test_limit": 2000,
        "clients": 20,
        "alpha": 0.3,
        "public": 1000,
        "validation": 500,
    },
}
#: Method -> its keys that are not the defaults; first those that the others are compared with.
METHODS: dict[str, dict[str, Any]] = {
    "local": {},
    "fd": {},
    "fedmd": {},
    "fedproto": {},
    "dsfl": {},
    "feddf": {"steps": 100, "patience": 50},
    "lg_fedavg": {},
    "fedgh": {},
    "fedtgp": {},
    "kt_pfl": {},
    "selective_fd": {},
    "fedet": {},
    "fedcache": {},
    "scarlet": {},
    "fccl": {},
    "fccl_plus": {},
    "cfd": {},
    "cronus": {},
    "fml": {},
    "fedkd": {},
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    seed: int
    rounds: int = SETTING["rounds"]

    def experiment(self) -> Experiment:
        """What is run."""
        from fedkd import Experiment

        strategy = {"name": self.method, **METHODS[self.method]}
        return Experiment(strategy=strategy, seed=self.seed, **{**SETTING, "rounds": self.rounds})

    def setting(self) -> dict[str, Any]:
        """What a line is made with: another setting, another line."""
        return {**SETTING, "rounds": self.rounds, "strategy": METHODS[self.method]}


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results."""
    from fedkd import simulate
    from fedkd.results.environment import cpu_model
    from fedkd.results.statistics import sent_up

    began = time.perf_counter()
    rows = simulate(cell.experiment(), "in-process").metrics
    turns = cell.rounds * SETTING["data"]["clients"]
    numbers = {key: rows[-1][key] for key in ("client_accuracy", "worst_tenth_accuracy", "accuracy") if key in rows[-1]}
    return {
        **asdict(cell),
        **numbers,
        "server_net": rows[-1]["accuracy_of"].endswith("at the server"),
        "up": sum(map(sent_up, rows)) / turns,
        "down": sum(row.get("coded_bytes_down", 0) for row in rows) / turns,
        "seconds": time.perf_counter() - began,
        "cpu": cpu_model(),
        "setting": cell.setting(),
    }


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    return f"{line['method']}, seed {line['seed']}: own {line['client_accuracy']:.3f}, all classes {line['accuracy']:.3f}"


def table(found: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A row a method, as Markdown: 95 % intervals over seeds."""
    from fedkd.results.statistics import percent, size

    heads = ["", "own tests", "over local", "all classes", "over local", "of whose nets", "up, a client and round", "down", "s"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for method in METHODS:
        rows = [line for cell, line in found.items() if cell.method == method]
        if not rows:
            continue
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in ("up", "down", "seconds")}
        alone = [line for cell, line in found.items() if cell.method == "local"] if method != "local" else []
        texts = [
            method,
            percent([row["client_accuracy"] for row in rows]),
            intervals_over(rows, alone, "client_accuracy"),
            percent([row["accuracy"] for row in rows]),
            intervals_over(rows, alone, "accuracy"),
            "the server's" if rows[0]["server_net"] else "clients'",
            size(mean["up"]),
            size(mean["down"]),
            f"{mean['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[*METHODS], metavar="METHOD", choices=[*METHODS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=SETTING["rounds"])
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    cells = [Cell(method, seed, given.rounds) for seed in given.seeds for method in given.only]
    if not given.table:
        there = finished(cells, RESULTS)
        fill([cell for cell in cells if cell not in there], run, RESULTS, describe=describe, workers=given.workers)
    whole = [Cell(method, seed, given.rounds) for seed in given.seeds for method in METHODS]
    print(table(finished(whole, RESULTS)))


if __name__ == "__main__":
    main()
