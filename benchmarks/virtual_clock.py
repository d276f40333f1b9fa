"""Simulated seconds until an accuracy is reached: weights against logits, on slow and on fast uplinks. Digits, 3 seeds.

    python benchmarks/virtual_clock.py             # run, and write benchmarks/results/virtual_clock.json
    python benchmarks/virtual_clock.py --show      # the table of that file

What is learned does not depend on the devices here, as nobody is late: each run is made once, and its counted operations and
bytes are timed on each device.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from fedkd import Experiment, History, simulate
from fedkd.engine.clock.clock import Trip
from fedkd.experiment.algorithm.clock_section import PROFILES
from fedkd.results.environment import cores, cpu_model
from fedkd.results.statistics import mean_interval, percent

FILE = Path(__file__).parent / "results" / "virtual_clock.json"
SEEDS, TARGETS, DEVICES = (0, 1, 2), (0.8, 0.9, 0.95), ("sensor", "phone", "silo")
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"strategy": "fedavg"},
    "fedavg, int8 up": {"strategy": "fedavg", "uplink": "int8"},
    "dsfl": {"strategy": "dsfl"},
}


def experiment(method: str, seed: int) -> Experiment:
    return Experiment(
        **{
            **METHODS[method],
            "seed": seed,
            "rounds": 20,
            "nets": "mlp",
            "net_options": {"mlp": {"hidden": [256, 256]}},
            "data": {"clients": 10, "partition": "dirichlet", "alpha": 1.0, "public": 300},
            "train": {"epochs": 2, "optimizer": "adam", "lr": 0.001, "batch_size": 16},
            "evaluate_clients": 0,
            "clock": {"devices": "sensor"},
        }
    )


def seconds(history: History, device: str) -> list[float]:
    """Of each round on this device."""
    slowest: dict[int, float] = defaultdict(float)
    for line in history.clients:
        if "flops" in line:
            up, down, flops = (line[key] for key in ("coded_bytes_up", "coded_bytes_down", "flops"))
            trip = Trip.of(PROFILES[device], down=down, flops=flops, up=up)
            slowest[line["round"]] = max(slowest[line["round"]], trip.seconds)
    return [slowest[row["round"]] for row in history.metrics]


def measure() -> None:
    found: dict[str, Any] = {}
    for method in METHODS:
        runs = [simulate(experiment(method, seed)) for seed in SEEDS]
        up = [row["coded_bytes_up"] / 10 for run in runs for row in run.metrics[1:]]
        found[method] = {
            "accuracy": [[row["accuracy"] for row in run.metrics] for run in runs],
            "bytes_up": mean(up),
            **{device: [seconds(run, device) for run in runs] for device in DEVICES},
        }
    machine = {"cores": cores(), "cpu": cpu_model()}  # what is counted does not depend on it
    about = {"command": "python benchmarks/virtual_clock.py", "seeds": SEEDS, "machine": machine}
    FILE.write_text(json.dumps({**about, "methods": found}) + "\n")


def until(accuracy: list[float], spent: list[float], target: float) -> float | None:
    """Seconds until the accuracy was first reached by training; None where it never was."""
    for round, value in enumerate(accuracy):
        if round and value >= target:
            return sum(spent[: round + 1])
    return None


def with_interval(values: list[float]) -> str:
    """The mean over seeds and half its 95 % interval (Student's t), in seconds."""
    middle, half = mean_interval(values)
    return f"{middle:.3g} ± {half:.2g} s"


def show() -> None:
    found = json.loads(FILE.read_text())["methods"]
    heading = [f"{device}: {100 * target:g} %" for device in DEVICES for target in TARGETS]
    print(f"| method | up, a client and round | last accuracy % | {' | '.join(heading)} |\n|{'---|' * (3 + len(heading))}")
    for method, of in found.items():
        cells = [f"{of['bytes_up'] / 1000:.0f} kB", percent([each[-1] for each in of["accuracy"]]).removesuffix(" %")]
        for device in DEVICES:
            for target in TARGETS:
                reached = [until(*pair, target) for pair in zip(of["accuracy"], of[device], strict=True)]
                cells.append("not reached" if None in reached else with_interval([each for each in reached if each]))
        print(f"| {method} | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="only print the table")
    if not parser.parse_args().show:
        measure()
    show()
