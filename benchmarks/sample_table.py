"""What a table by sample id at the server costs: FedCache's share of a round for keeping it and asking it.

    python benchmarks/sample_table.py        # a minute

Twenty clients of 250 Fashion-MNIST images, a cnn each, one epoch a round, in-process, one thread. What counts as the table's:
the whole of ``server_update`` (rows are put, neighbours' means are taken) and, at clients, noting the logits of each step. The
first round, in which samples are hashed and neighbours are sought once, stands apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results" / "sample_table.json"
SETTING: dict[str, Any] = {
    "strategy": "fedcache",
    "nets": "cnn",
    "evaluate_every": 10**6,
    "train": {"epochs": 1, "batch_size": 32, "lr": 0.05},
    "data": {"source": "fashion_mnist", "train_limit": 5000, "test_limit": 100, "clients": 20, "partition": "iid"},
}


class Clock:
    """Seconds spent within functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time counted."""

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def shares(rounds: int) -> list[float]:
    """Of each round the share of the table."""
    from fedkd.strategies.fedcache import FedCache, LastOutputs

    from fedkd import Experiment, simulate

    clock, found = Clock(), list[float]()
    whole, noted = FedCache.server_update, LastOutputs.put

    def server_update(*arguments: Any) -> Any:
        try:
            return clock.around(whole)(*arguments)
        finally:
            found.append(clock.seconds)
            clock.seconds = 0.0

    FedCache.server_update, LastOutputs.put = server_update, clock.around(noted)  # type: ignore[method-assign]
    try:
        rows = simulate(Experiment(**SETTING, rounds=rounds), "in-process").metrics
    finally:
        FedCache.server_update, LastOutputs.put = whole, noted  # type: ignore[method-assign]
    return [of_table / row["seconds"] for of_table, row in zip(found, rows[1:], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    from fedkd.results.environment import cpu_model

    machine = {"cores": os.cpu_count(), "cpu": cpu_model(), "load": os.getloadavg()[0]}  # before it is ours
    torch.set_num_threads(1)
    first, *later = shares(given.rounds)
    report = {
        "command": " ".join(["python benchmarks/sample_table.py", *sys.argv[1:]]),
        "machine": machine,
        "share": statistics.median(later),
        "share_range": [min(later), max(later)],
        "share_of_first_round": first,
    }
    print(f"the table's share of a round {report['share']:.1%}, of the first {first:.1%}")
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
