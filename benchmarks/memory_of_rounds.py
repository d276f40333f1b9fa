"""Does memory grow with the rounds? FedMD, mixed nets, delta codecs: 500 rounds in this process, 100 on Ray, 30 deployed.

    python benchmarks/memory_of_rounds.py                    # all, then the table; writes results/memory_of_rounds.json
    python benchmarks/memory_of_rounds.py --engines in-process --rounds 200

After each round the memory of this process and all that it started is read: what they wrote themselves, and what they share,
once (anonymous and shared memory of the proportional set size; pages of libraries come and go with other programs). Growth
is the slope of a straight line through the second half of the rounds, in MB a round: in the first half caches fill. Deployed
are a SuperLink and two nodes (`fedkd supernode`) on this machine; of several readings a round the least counts, as Flower
starts processes that end again. A run in this process takes two minutes, one on Ray one, one that is deployed two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "memory_of_rounds.json"
ROUNDS = {"in-process": 500, "ray": 100, "deployment": 30}
SETTING: dict[str, Any] = {
    "strategy": "fedmd",
    "nets": {"mlp": 0.5, "cnn": 0.5},
    "net_options": {"cnn": {"channels": [8, 8], "hidden": 32}},
    "uplink": ["delta", "deflate"],
    "evaluate_every": 10,
    "train": {"batch_size": 32},
    "data": {"clients": 8, "partition": "iid", "train_limit": 500, "public": 100, "test_limit": 100},
}


def descendants(process: int) -> list[int]:
    """This process and all that it started, directly or not."""
    children = Path(f"/proc/{process}/task").glob("*/children")
    try:
        ids = [int(child) for file in children for child in file.read_text().split()]
    except OSError:  # it has ended meanwhile
        ids = []
    return [process, *(each for child in ids for each in descendants(child))]


def memory() -> float:
    """Megabytes that this process and its descendants wrote, what they share counted once."""
    total = 0
    for process in descendants(os.getpid()):
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return total / 1024


def measure(engine: str, rounds: int) -> dict[str, Any]:
    """One run, into a directory, as checkpoints belong to a round."""
    from fedkd import Experiment, simulate

    if engine == "deployment":
        return measure_deployment(rounds)
    held: list[float] = []
    experiment = Experiment(**SETTING, rounds=rounds, engine={"name": engine, "actors": 2} if engine == "ray" else {})
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        simulate(experiment, out=Path(folder) / "run", on_round=lambda row: held.append(memory()))
    return figures(held, rounds, began)


def measure_deployment(rounds: int) -> dict[str, Any]:
    """The same on a SuperLink with two nodes."""
    sys.path[:0] = sorted({str(file.parent) for file in (Path(__file__).parents[1] / "tests").rglob("*.py")})
    from programs import Programs, flower_environment, free_ports, listens
    from test_deployment import app_of

    from fedkd import Experiment

    began, bin = time.perf_counter(), Path(sys.executable).parent
    experiment = Experiment(**SETTING | {"data": SETTING["data"] | {"clients": 2}}, rounds=rounds, timeout=300.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (home := folder / "flwr").mkdir()
        app, out = app_of(experiment, folder / "app"), folder / "run"
        link, *ports = free_ports(3)
        (home / "config.toml").write_text(f'[superlink.loopback]\naddress = "127.0.0.1:{link}"\ninsecure = true\n')
        with Programs(folder, flower_environment(home)) as programs:
            words = ("--insecure", "--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(link))
            programs.start("superlink", f"{bin}/flower-superlink", *words)
            for client, port in enumerate(ports):
                words = ("supernode", "--insecure", "--superlink", f"127.0.0.1:{link}", "--host", "127.0.0.1")
                words = (*words, "--port", str(port), "--node-config", f"partition-id={client}")
                programs.start(f"supernode-{client}", f"{bin}/fedkd", *words)
            programs.wait_until("the SuperLink listens", lambda: listens(link), 120)
            flwr = programs.start(
                "flwr", f"{bin}/flwr", "run", str(app), "loopback", "--stream", "--run-config", f"out='{out}'"
            )
            held = readings(out / "metrics.jsonl", flwr.process)
            if len(held) <= rounds:
                raise RuntimeError(programs.report(f"the run ended after {len(held)} rows"))
    return figures(held, rounds, began)


def readings(log: Path, run: subprocess.Popen[bytes]) -> list[float]:
    """The least memory while each row was the last one, until the run ends."""
    least: dict[int, float] = {}
    while run.poll() is None:
        if rows := len(log.read_bytes().splitlines()) if log.exists() else 0:
            least[rows] = min(memory(), least.get(rows, float("inf")))
        time.sleep(0.1)
    return [least[rows] for rows in sorted(least)]


def figures(held: list[float], rounds: int, began: float) -> dict[str, Any]:
    """What the readings of a run come to."""
    second = held[len(held) // 2 :]
    slope = float(np.polyfit(np.arange(len(second)), second, 1)[0])
    seconds = round(time.perf_counter() - began, 1)
    return {
        "rounds": rounds,
        "mb_a_round": round(slope, 4),
        "mb_at_half": round(second[0], 1),
        "mb_at_end": round(second[-1], 1),
        "seconds": seconds,
    }


def main() -> None:
    from fedkd.results.environment import cpu_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=list(ROUNDS), choices=ROUNDS)
    parser.add_argument("--rounds", type=int, help="in place of 500 and 100")
    given = parser.parse_args()
    found = {engine: measure(engine, given.rounds or ROUNDS[engine]) for engine in given.engines}
    for engine, figures in found.items():
        print(engine, figures)
    before = json.loads(RESULTS.read_text())["engines"] if RESULTS.exists() else {}
    facts = {"command": "python benchmarks/memory_of_rounds.py", "cpu": cpu_model(), "cores": os.cpu_count()}
    RESULTS.write_text(json.dumps({**facts, "setting": SETTING, "engines": {**before, **found}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
