"""Many clients of which a hundred take part in a round: memory, seconds and bytes, as ratios to a hundred clients in all.

    python benchmarks/many_clients.py                    # ten thousand that own a net; a hundred thousand that own none
    python benchmarks/many_clients.py --fedkd ../before  # the same of another checkout, into a file of its own

Every measurement runs in a process of its own. What stands in the file of results is not measured again: delete it to begin
anew. All train the CNN of 52,138 parameters on Fashion-MNIST, 6 images each (2 of a hundred thousand clients, images over again
where there are too few), in one torch thread. ``start`` are the seconds from ``simulate`` to the end of row 0, when a small run
has been made before: without imports and without loading the data. Bytes are those that the process hands to the system.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

COHORT, ROUNDS = 100, 12
COMPARED = ("peak_megabytes", "seconds_a_round", "cpu_seconds_a_round", "megabytes_written_a_round")
RESULTS = Path(__file__).parent / "results"
#: Which strategy, with how many clients: the first number is what the others are compared with.
OWN_NETS = {name: (100, 10_000) for name in ("local", "fedproto", "fedmd")}
NO_NETS = {"fedavg": (100, 10_000, 100_000)}


def repeated_source(samples: int) -> Any:
    """Fashion-MNIST with so many training images, over again where there are fewer."""
    from dataclasses import replace

    import torch

    from fedkd.data import load_source

    source = load_source("fashion_mnist")
    rows = torch.arange(samples) % len(source.train_labels)
    source = replace(source, name="repeated", train_inputs=source.train_inputs[rows], train_labels=source.train_labels[rows])
    _ = source.content_hash, source.moments
    return source


def measure(strategy: str, clients: int) -> None:
    """One run, in this process; its figures as JSON."""
    import warnings

    from fedkd import Experiment, simulate
    from fedkd.base.errors import Notice

    warnings.simplefilter("ignore", Notice)
    own, most = strategy in OWN_NETS, max({**OWN_NETS, **NO_NETS}[strategy])
    each = 6 if own else 2
    public = 100 if strategy == "fedmd" else 0
    data = {"source": repeated_source(each * most + public), "partition": "iid", "client_test": 0.0, "test_limit": 200}
    data |= {"train_limit": each * clients + public, "clients": clients, "public": public}
    usual = {"strategy": strategy, "nets": "cnn", "train": {"batch_size": 32, "lr": 0.01, "momentum": 0.9}}
    usual |= {"evaluate_every": 10**6, "evaluate_clients": 10 if own else 0, "rounds": ROUNDS}
    small = {**data, "clients": 2, "train_limit": 12 + public}
    simulate(Experiment(**{**usual, "rounds": 1, "data": small, "participation": 1.0}))
    rounds: list[dict[str, float]] = []

    def note(row: dict[str, Any]) -> None:
        rounds.append({"at": time.perf_counter(), "cpu": time.process_time(), "written": written(), "megabytes": held()})

    out = Path(tempfile.mkdtemp(prefix="fedkd-many-", dir=os.environ.get("MANY_CLIENTS_IN")))
    experiment = Experiment(**{**usual, "data": data, "participation": COHORT / clients})
    began = {"at": time.perf_counter(), "cpu": time.process_time(), "written": written()}
    try:
        simulate(experiment, "in-process", out=out / "run", on_round=note)
        disk = sum(file.stat().st_size for file in (out / "run" / "checkpoint").rglob("*") if file.is_file())
    finally:
        shutil.rmtree(out)
    pairs = pairwise(rounds[1:-1])  # without the last round, which is evaluated
    later = [{key: after[key] - before[key] for key in began} for before, after in pairs]
    found = {
        "start_seconds": rounds[0]["at"] - began["at"],
        "start_cpu_seconds": rounds[0]["cpu"] - began["cpu"],
        "seconds_a_round": statistics.median(each["at"] for each in later),
        "cpu_seconds_a_round": statistics.median(each["cpu"] for each in later),
        "megabytes_written_a_round": statistics.median(each["written"] for each in later) / 1e6,
        "megabytes_after_round_2": rounds[2]["megabytes"],
        "megabytes_after_last_round": rounds[-2]["megabytes"],
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "megabytes_of_checkpoints": disk / 1e6,
    }
    print(json.dumps(found))


def written() -> int:
    """Bytes that this process has handed to the system so far."""
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])


def held() -> float:
    """MiB of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measured(strategy: str, clients: int, package: Path) -> dict[str, float]:
    """The figures of a run in a process of its own, with the fedkd that lies there."""
    there = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--measure", strategy, str(clients)]
    done = subprocess.run(command, capture_output=True, text=True, env=there, timeout=3600, check=False)
    if done.returncode:
        raise SystemExit(f"{strategy}, {clients} clients: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def ratios_of(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """To the same strategy with a hundred clients."""
    ratios: dict[str, dict[str, float]] = {}
    for strategy, numbers in {**OWN_NETS, **NO_NETS}.items():
        base = found.get(f"{strategy}, {numbers[0]} clients")
        for name in (f"{strategy}, {clients} clients" for clients in numbers[1:]):
            if base and name in found:
                ratios[name] = {key: found[name][key] / base[key] for key in COMPARED}
    return ratios


def show(found: dict[str, dict[str, float]]) -> None:
    """All figures, and their ratios."""
    ratios = ratios_of(found)
    for name, mine in found.items():
        print(f"{name}: start {mine['start_seconds']:.2f} s ({mine['start_cpu_seconds']:.2f} s of CPU)")
        for key in COMPARED:
            times = f"{ratios[name][key]:5.2f} x that of 100 clients" if name in ratios else ""
            print(f"    {key:28} {mine[key]:8.2f}   {times}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fedkd", type=Path, default=Path(__file__).parents[1], help="the checkout that is measured")
    parser.add_argument("--strategies", nargs="+", choices=[*OWN_NETS, *NO_NETS], default=[*OWN_NETS, *NO_NETS])
    parser.add_argument("--most", type=int, default=100_000, help="no run with more clients than these")
    parser.add_argument("--out", type=Path, default=RESULTS / "many_clients.json")
    parser.add_argument("--measure", nargs=2, metavar=("STRATEGY", "CLIENTS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        return measure(given.measure[0], int(given.measure[1]))
    from fedkd.results.environment import cpu_model

    found: dict[str, dict[str, float]] = json.loads(given.out.read_text())["runs"] if given.out.exists() else {}
    for strategy in given.strategies:
        for clients in {**OWN_NETS, **NO_NETS}[strategy]:
            name = f"{strategy}, {clients} clients"
            if name not in found and clients <= given.most:
                found[name] = {**measured(strategy, clients, given.fedkd), "load": os.getloadavg()[0]}
                print(f"  {name}: done", flush=True)
            machine = {"cores": os.cpu_count(), "cpu": cpu_model()}
            command = f"python benchmarks/many_clients.py {' '.join(sys.argv[1:])}".strip()
            about = {"command": command, "seed": 0, "machine": machine, "cohort": COHORT, "rounds": ROUNDS}
            given.out.write_text(json.dumps({**about, "ratios": ratios_of(found), "runs": found}, indent=1) + "\n")
    show(found)


if __name__ == "__main__":
    main()
