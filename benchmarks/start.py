"""Start-up: ``from fedkd import Experiment`` against ``import torch``, and ``fedkd run`` to round 1 against a bare script.

    python benchmarks/start.py                  # about four minutes on two idle cores
    python benchmarks/start.py --repeats 5
    python benchmarks/start.py --workers        # round 1 of 200 clients on two workers, ours on Ray and pfl's; two minutes

Every contender is a process of its own, in one torch thread; they take turns, so that all of them meet the same load. Of each
repeat the ratio, or the difference, is taken; their median counts, and the interval holds the middle half of them. The same of
processor time stands beside it: on a machine that others use too it moves less than the clock.

With ``--workers`` it is the end of round 1 that counts, from the start of the process, medians of three: of ``fedkd run`` and
of a script that calls ``simulate``, both with two actors of Ray, of pfl's two processes under ``torchrun``, and of Ray alone:
a program that starts it with two actors which import torch, and does nothing else. What is trained, and pfl's environment,
are those of ``engine.py``.
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
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "start.json"
BARE = [sys.executable, str(ROOT / "benchmarks" / "start_bare.py")]
COMMAND = [sys.executable, "-c", "from fedkd.cli import main; main()"]
#: name -> the process.
CONTENDERS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "from fedkd import Experiment": [sys.executable, "-c", "from fedkd import Experiment"],
    "fedkd --help": [*COMMAND, "--help"],
    "fedkd strategies": [*COMMAND, "strategies"],
    "bare script": BARE,
    "fedkd run": [*COMMAND, "run", str(ROOT / "simulations" / "digits_fedavg.toml"), "--set", "rounds=1", "--json", "--out"],
}
PFL = "pfl 0.6.0, two processes"
ON_WORKERS = """
rounds = 2
nets = "cnn"
evaluate_every = 1000000
evaluate_clients = 0
train = { batch_size = 32, lr = 0.01, momentum = 0.9, weight_decay = 1e-5 }
data = { source = "fashion_mnist", train_limit = 12800, clients = 200, partition = "iid", client_test = 0.0 }
engine = { name = "ray", actors = 2 }
[strategy]
name = "fedavg"
"""
RAY_ALONE = """
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
load = ray.remote(num_cpus=1)(lambda: __import__("torch").__version__)
ray.get([load.remote(), load.remote()])
print('{"round": 1}', flush=True)
"""


def measure(name: str, folder: Path) -> tuple[float, float]:
    """Seconds by the clock and of processor time: of a run until the line of round 1, of all others until their end."""
    place = folder / "run"
    command = [*CONTENDERS[name], *([str(place)] if name == "fedkd run" else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        there = any(line.startswith(b'{"round": 1') for line in process.stdout)
        if there:
            process.kill()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode and not there:
        raise SystemExit(f"{' '.join(command)} failed: run it by hand to see why")
    shutil.rmtree(place, ignore_errors=True)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def summary(values: list[float]) -> dict[str, float]:
    """Their median, and the borders of the middle half."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(middle, 3), "from": round(low, 3), "to": round(high, 3)}


def compare(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """The figures that count, from the seconds of each contender, repeat by repeat."""

    def pairs(mine: str, other: str) -> list[tuple[float, float]]:
        return list(zip(seconds[mine], seconds[other], strict=True))

    return {
        **{
            f"{name} / import torch": summary([mine / torch for mine, torch in pairs(name, "import torch")])
            for name in ("from fedkd import Experiment", "fedkd --help", "fedkd strategies")
        },
        "fedkd run - bare script (s)": summary([mine - bare for mine, bare in pairs("fedkd run", "bare script")]),
        **{f"{name} (s)": summary(values) for name, values in seconds.items()},
    }


def first_rounds(folder: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds from the start of the process to the end of round 1 on two workers, repeat by repeat."""
    import engine  # it stands beside this file

    (folder / "two_workers.toml").write_text(ON_WORKERS)
    train = argparse.Namespace(clients=200, rounds=1, cache=engine.CACHE)
    commands = {
        "fedkd run": [*COMMAND, "run", str(folder / "two_workers.toml"), "--json", "--out"],
        "simulate": engine.command_of("ray", train),
        "Ray alone": [sys.executable, "-c", RAY_ALONE],
        PFL: engine.command_of(PFL, train),
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for repeat in range(repeats):
        for name, command in commands.items():
            own = [str(folder / f"run-{repeat}")] if name == "fedkd run" else []
            rows = engine.run([*command, *own])
            found[name].append(next(row["since_start"] for row in rows if row.get("round") == 1))
            print(f"{name} ({repeat + 1} of {repeats}): {found[name][-1]:.1f} s", file=sys.stderr)
    return found


def compare_workers(repeats: int) -> None:
    """Ours against pfl's, and against what Ray alone takes."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = first_rounds(Path(folder), repeats)
    found = {
        "command": "python benchmarks/start.py --workers",
        "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "python": sys.version.split()[0]},
        "repeats": repeats,
        "seconds": seconds,
        "ratios": {
            f"{mine} / {other}": round(statistics.median(a / b for a, b in zip(seconds[mine], seconds[other], strict=True)), 3)
            for mine in ("fedkd run", "simulate", "Ray alone")
            for other in (PFL, "Ray alone")
            if mine != other
        },
    }
    RESULTS.with_name("start_workers.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["ratios"], indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, help="default 9; with --workers 3")
    parser.add_argument("--workers", action="store_true", help="the first round on two workers, beside pfl's")
    given = parser.parse_args()
    if given.workers:
        return compare_workers(given.repeats or 3)
    repeats = given.repeats or 9
    clock: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    processor: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for name in CONTENDERS:
                seconds, used = measure(name, Path(folder))
                clock[name].append(seconds)
                processor[name].append(used)
            print(f"{repeat + 1} of {repeats}", file=sys.stderr)
    found = {
        "command": f"python benchmarks/start.py --repeats {repeats}",
        "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "python": sys.version.split()[0]},
        "repeats": repeats,
        "clock": compare(clock),
        "processor": compare(processor),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["clock"], indent=1))


if __name__ == "__main__":
    main()
