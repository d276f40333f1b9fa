"""One exchange and no more: what a server makes of nets that clients trained alone and sent once.

    python benchmarks/one_shot.py                     # the cells not yet in results/one_shot.jsonl, then the table
    python benchmarks/one_shot.py --only dense --seeds 0
    python benchmarks/one_shot.py --epochs 100 --only dense co_boosting --seeds 0    # the server's; a longer run
    python benchmarks/one_shot.py --table             # only print what is there

Fashion-MNIST: five clients share 3,000 images by a Dirichlet draw (alpha 0.5) and train a cnn with BatchNorm for twenty epochs
of SGD from common weights; the test set is 2,000 images of all classes. Methods that want public samples have 500 unlabelled;
the data-free ones have none. A cell is one run of one round in a one-thread process; two run side by side.
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

RESULTS = Path(__file__).parent / "results" / "one_shot.jsonl"
SETTING: dict[str, Any] = {
    "rounds": 1,
    "nets": "cnn",
    "net_options": {"cnn": {"norm": "batch"}},
    "train": {"epochs": 20, "batch_size": 32, "lr": 0.01, "momentum": 0.9},
    "data": {
        "source": "fashion_mnist",
        "train_limit": 4000,
        "test_limit": 2000,
        "clients": 5,
        "alpha": 0.5,
        "public": 500,
        "validation": 500,
    },
}
#: Row -> its strategy's table; first those that the others are compared with.
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg"},
    "ensemble": {"name": "ensemble"},
    "feddf": {"name": "feddf"},
    "fedkt": {"name": "fedkt"},
    "fedbe": {"name": "fedbe"},
    "dense": {"name": "dense"},
    "dense without BatchNorm's term": {"name": "dense", "statistics_weight": 0.0},
    "co_boosting": {"name": "co_boosting"},
}
#: Which of them make samples, for so many epochs.
MAKERS = ("dense", "dense without BatchNorm's term", "co_boosting")
EPOCHS = 20
#: Which of them are given public samples.
PUBLIC = ("feddf", "fedkt", "fedbe")


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    seed: int
    epochs: int = EPOCHS

    def strategy(self) -> dict[str, Any]:
        """The strategy's table."""
        return METHODS[self.method] | ({"epochs": self.epochs} if self.method in MAKERS else {})

    def experiment(self) -> Experiment:
        """What is run."""
        from fedkd import Experiment

        return Experiment(strategy=self.strategy(), seed=self.seed, **SETTING)

    def setting(self) -> dict[str, Any]:
        """What a line is made with: another setting, another line."""
        return {**SETTING, "strategy": self.strategy()}


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results."""
    from fedkd import simulate
    from fedkd.results.environment import cpu_model
    from fedkd.results.statistics import sent_up

    began = time.perf_counter()
    rows = simulate(cell.experiment(), "in-process").metrics
    clients = SETTING["data"]["clients"]
    return {
        **asdict(cell),
        "accuracy": rows[-1]["accuracy"],
        "up": sum(map(sent_up, rows)) / clients,
        "seconds": time.perf_counter() - began,
        "cpu": cpu_model(),
        "setting": cell.setting(),
    }


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    return f"{line['method']}, seed {line['seed']}: {line['accuracy']:.3f}"


def table(found: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A row a method, as Markdown: 95 % intervals over seeds."""
    from fedkd.results.statistics import percent, size

    of = {method: [line for cell, line in found.items() if cell.method == method] for method in METHODS}
    heads = ["", "accuracy", "over fedavg", "over ensemble", "public samples", "up, a client", "s"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for method, rows in of.items():
        if not rows:
            continue
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in ("up", "seconds")}
        texts = [
            method,
            percent([row["accuracy"] for row in rows]),
            *(intervals_over(rows, of[base] if base != method else [], "accuracy") for base in ("fedavg", "ensemble")),
            str(SETTING["data"]["public"]) if method in PUBLIC else "none",
            size(mean["up"]),
            f"{mean['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[*METHODS], metavar="METHOD", choices=[*METHODS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of methods that make samples, at the server")
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    cells = [Cell(method, seed, given.epochs) for seed in given.seeds for method in given.only]
    if not given.table:
        there = finished(cells, RESULTS)
        fill([cell for cell in cells if cell not in there], run, RESULTS, describe=describe, workers=given.workers)
    whole = [Cell(method, seed, given.epochs) for seed in given.seeds for method in METHODS]
    print(table(finished(whole, RESULTS)))


if __name__ == "__main__":
    main()
