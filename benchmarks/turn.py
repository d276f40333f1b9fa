"""Where the time of one client's turn goes, in this process: microseconds of each part, before and after, from one run.

    python benchmarks/turn.py                       # against an earlier build, in turn; about three minutes
    python benchmarks/turn.py --before c430b5a      # any commit

FedAvg of 300 clients of 64 images of Fashion-MNIST, a CNN of 52,138 parameters, two batches of 32, one thread. Each part
is timed at every call, and the quickest tenth counts (the 10 % quantile): what else the machine does disturbs it least.
A part's time is its own: what it calls and is a part too is taken off.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from online_step import ROOT, earlier

RESULTS = Path(__file__).parent / "results" / "turn.json"
CLIENTS, ROUNDS = 300, 6
#: Part -> the functions whose time it is, by module, and class where it is a method; what a build has not is passed over.
PARTS: dict[str, tuple[str, ...]] = {
    "forward pass": ("fedkd.nets.net:Net.forward",),
    "backward pass": ("torch:Tensor.backward",),
    "optimiser: made": ("fedkd.experiment.algorithm.train:make_optimizer",),
    "optimiser: steps": ("fedkd.experiment.algorithm.step:_take_step", "fedkd.experiment.algorithm.step:take_step"),
    "batches: taken": ("fedkd.experiment.algorithm.train:Split.batch",),
    "batches: normalised": ("fedkd.data.kinds.kind:Kind.normalise",),
    "losses: means and weights looked at": (
        "fedkd.experiment.algorithm.train:mean_losses",
        "fedkd.experiment.algorithm.train:check_weights",
    ),
    "net: taken and loaded": ("fedkd.experiment.algorithm.node:Node.net", "fedkd.strategies.fedavg:load"),
    "net: given back, memory": ("fedkd.engine.client_half:_persist", "fedkd.engine.client_half:_open"),
    "broadcast: read": ("fedkd.engine.client_half:from_records",),
    "upload: written": ("fedkd.engine.client_half:to_records",),
    "upload: read": ("fedkd.engine.transport:read_upload",),
    "upload: guarded": ("fedkd.engine.guard:Guard.inspect",),
    "uploads: averaged": ("fedkd.strategies.fedavg:weighted_mean",),
    "instructions": ("fedkd.engine.transport:Transport.instruct",),
    "client's half, the rest": ("fedkd.engine.client_half:train",),
}


def watch(spent: dict[str, list[float]]) -> None:
    """Time every part; of parts within parts the inner one's time is the inner one's alone."""
    inner: list[float] = [0.0]

    def timed(part: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            inner.append(0.0)
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                whole = time.perf_counter() - began
                spent[part].append(whole - inner.pop())
                inner[-1] += whole

        return call

    for part, places in PARTS.items():
        for place in places:
            module, _, path = place.partition(":")
            try:
                *owners, name = path.split(".")
                owner = importlib.import_module(module)
                for each in owners:
                    owner = getattr(owner, each)
                setattr(owner, name, timed(part, vars(owner)[name]))
            except (ImportError, AttributeError, KeyError):
                continue


def turn() -> dict[str, float]:
    """Microseconds a client, by part."""
    from fedkd import Experiment, simulate

    spent: dict[str, list[float]] = defaultdict(list)
    rounds: list[float] = []

    def on_round(row: dict[str, Any]) -> None:
        rounds.append(time.perf_counter())
        if row["round"] == 1:
            spent.clear()

    data = {"source": "fashion_mnist", "train_limit": CLIENTS * 64, "clients": CLIENTS, "partition": "iid", "client_test": 0.0}
    train = {"batch_size": 32, "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-5}
    settings: dict[str, Any] = {"nets": "cnn", "train": train, "evaluate_every": 10**6, "evaluate_clients": 0, "data": data}
    watch(spent)
    simulate(Experiment(strategy="fedavg", rounds=ROUNDS, **settings), "in-process", on_round=on_round)
    turns = CLIENTS * (ROUNDS - 1)
    found = {part: quick(times) * round(len(times) / turns, 3) for part, times in spent.items() if len(times) >= turns}
    found |= {part: statistics.median(times) / CLIENTS for part, times in spent.items() if len(times) < turns}
    found = {part: 1e6 * found[part] for part in PARTS if part in found}
    return {**found, "sum": sum(found.values())}


def quick(times: list[float]) -> float:
    """The 10 % quantile."""
    return statistics.quantiles(times, n=10)[0]


def measured(tree: Path) -> dict[str, float]:
    """One process of a build."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    command = [sys.executable, str(Path(__file__).resolve()), "--one"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tree, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Both builds in turn; the least of three of each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="c430b5a", metavar="COMMIT", help="the build that this one is held against")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(turn()))
        return
    from fedkd.results.environment import cpu_model

    runs: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
    with earlier(given.before) as tree:
        for _ in range(given.repeats):
            runs["before"].append(measured(tree))
            runs["now"].append(measured(ROOT))
    parts = {build: {part: min(run[part] for run in found) for part in found[0]} for build, found in runs.items()}
    for part in [*PARTS, "sum"]:
        print(f"{part:40}", *(f"{parts[build].get(part, 0.0):8.0f}" for build in runs))
    machine = {"cores": os.cpu_count(), "cpu": cpu_model(), "load": os.getloadavg()[0]}
    command = f"python benchmarks/turn.py {' '.join(sys.argv[1:])}".strip()
    rest = {"machine": machine, "microseconds": parts, "runs": runs}
    RESULTS.write_text(json.dumps({"command": command, **rest}, indent=1) + "\n")


if __name__ == "__main__":
    main()
