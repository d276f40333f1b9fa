"""Engines against a bare PyTorch loop and Flower's own Ray simulation: seconds a round, from one run, as ratios.

    python benchmarks/engine.py                 # 500 clients x 64 images of Fashion-MNIST, all take part; then 10,000 clients
    python benchmarks/engine.py --rounds 4

Every contender runs in a process of its own, one after the other, each twice; the better of the two counts. All train the same
net (52,138 parameters) one epoch a round in batches of 32 with SGD, in one torch thread a process, and average the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

START = time.perf_counter()
RESULTS = Path(__file__).parent / "results" / "engine.json"
CLIENTS, IMAGES, BATCH, LR, MOMENTUM, DECAY = 500, 64, 32, 0.01, 0.9, 1e-5


def report(round: int, seconds: float, **more: float) -> None:
    print(json.dumps({"round": round, "seconds": seconds, "since_start": time.perf_counter() - START, **more}), flush=True)


def stopwatch() -> Callable[[dict[str, Any]], None]:
    """Reports the time from one call to the next: all that a round costs, the framework's own time too."""
    last = [time.perf_counter()]

    def on_round(row: dict[str, Any]) -> None:
        now = time.perf_counter()
        if row["round"]:
            report(row["round"], now - last[0])
        last[0] = now

    return on_round


def bare(rounds: int) -> None:
    """What a careful person writes without any framework. Everything in one process, one thread."""
    import torch

    from fedkd.data import load_source
    from fedkd.nets import build_net

    torch.set_num_threads(1)
    source = load_source("fashion_mnist")
    mean, std = (moment.view(1, -1, 1, 1) for moment in source.moments)
    net, rng = build_net("cnn", shape=(1, 28, 28), classes=10), torch.Generator().manual_seed(0)
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for round in range(1, rounds + 1):
        began, total = time.perf_counter(), {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        for client in range(CLIENTS):
            net.load_state_dict(weights)
            optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
            for positions in torch.randperm(IMAGES, generator=rng).split(BATCH):
                rows = client * IMAGES + positions
                images = (source.train_inputs[rows].float() / 255 - mean) / std
                loss = torch.nn.functional.cross_entropy(net(images), source.train_labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            for name, tensor in net.state_dict().items():
                total[name] += tensor / CLIENTS
        weights = total
        report(round, time.perf_counter() - began)


def experiment(rounds: int, **changes: Any) -> Any:
    from fedkd import Experiment

    data = {"source": "fashion_mnist", "train_limit": CLIENTS * IMAGES, "clients": CLIENTS, "partition": "iid"}
    train = {"batch_size": BATCH, "lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY}
    settings = {"strategy": "fedavg", "rounds": rounds, "nets": "cnn", "train": train, "evaluate_every": 10**6}
    settings |= {"evaluate_clients": 0, "data": data | {"client_test": 0.0}}
    return Experiment(**{**settings, **changes})


def ours(engine: str, rounds: int) -> None:
    from fedkd import simulate

    # The last round is evaluated, so it is left out of the figures: run one more.
    simulate(experiment(rounds + 1), engine, on_round=stopwatch())


def flower(rounds: int) -> None:
    """The same apps in Flower's own simulation (deprecated there, and without a replacement that runs in a script)."""
    import logging

    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    from flwr.simulation import run_simulation

    from fedkd.app import client_app, server_app

    logging.getLogger("flwr").setLevel(logging.ERROR)
    config = experiment(rounds + 1).to_flat()
    server = server_app(on_round=stopwatch())

    from flwr.app import Context
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

    outer, inner = ServerApp(), client_app()

    @outer.main()
    def main(grid: Grid, context: Context) -> None:
        server(grid, Context(context.run_id, context.node_id, context.node_config, context.state, config))

    app = ClientApp()

    def handle(message: Any, context: Context) -> Any:  # Flower's simulation has no run-config of its own
        mine = Context(context.run_id, context.node_id, context.node_config, context.state, config)
        reply = inner(message, mine)
        context.state = mine.state
        return reply

    for register in (app.train(), app.evaluate(), app.query("join")):
        register(handle)
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(outer, app, CLIENTS, backend_config=resources)


def scale(clients: int, rounds: int) -> None:
    """Many clients of which 100 take part: seconds a round, and the process's memory after each."""
    from fedkd import simulate

    def on_round(row: dict[str, Any]) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        report(row["round"], row["seconds"], megabytes=pages * os.sysconf("SC_PAGE_SIZE") / 2**20)

    data = {"source": "fashion_mnist", "clients": clients, "partition": "iid", "client_test": 0.0}
    data |= {"train_limit": 6 * clients if clients > 1000 else 600}
    simulate(experiment(rounds, participation=100 / clients, data=data), "in-process", on_round=on_round)


def measure(*arguments: str) -> list[dict[str, float]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, env=environment, timeout=1800, check=False
    )
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def later_rounds(rows: list[dict[str, float]], rounds: int) -> float:
    return statistics.median(row["seconds"] for row in rows if 2 <= row["round"] <= rounds)


def compare(rounds: int, repeats: int) -> dict[str, Any]:
    contenders = ["bare", "in-process", "ray", "flower"]
    found: dict[str, dict[str, float]] = {}
    for repeat in range(repeats):
        for name in contenders:
            rows = measure("--contender", name, "--rounds", str(rounds))
            first = next(row["since_start"] for row in rows if row["round"] == 1)
            now = {"seconds_a_round": later_rounds(rows, rounds), "first_round_since_start": first}
            best = found.setdefault(name, now)
            found[name] = {key: min(best[key], now[key]) for key in now}
            print(f"  {name} ({repeat + 1}/{repeats}): {now['seconds_a_round']:.2f} s a round, first after {first:.1f} s")
    return found


def show(found: dict[str, dict[str, float]]) -> dict[str, float]:
    bare_seconds, flower_seconds = found["bare"]["seconds_a_round"], found["flower"]["seconds_a_round"]
    ratios = {}
    for name in ("in-process", "ray"):
        mine = found[name]
        ratios[f"{name} over the bare loop"] = mine["seconds_a_round"] / bare_seconds
        ratios[f"{name}: times faster than Flower's simulation"] = flower_seconds / mine["seconds_a_round"]
        extra = mine["first_round_since_start"] - found["bare"]["first_round_since_start"]
        ratios[f"{name}: seconds to the end of round 1 beyond the bare loop's"] = extra
    for name, value in ratios.items():
        print(f"{name:70} {value:6.2f}")
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--contender", choices=["bare", "in-process", "ray", "flower", "scale"])
    parser.add_argument("--clients", type=int, default=10_000)
    given = parser.parse_args()
    if given.contender == "scale":
        return scale(given.clients, given.rounds)
    if given.contender:
        run = {"bare": bare, "flower": flower}.get(given.contender, lambda rounds: ours(given.contender, rounds))
        return run(given.rounds)
    from fedkd.results.environment import cpu_model

    found = compare(given.rounds, given.repeats)
    ratios = show(found)
    many = {str(n): measure("--contender", "scale", "--clients", str(n), "--rounds", "12") for n in (100, 10_000)}
    for n, rows in many.items():
        flat = rows[-2]["megabytes"] - rows[3]["megabytes"]
        print(f"{n} clients, 100 a round: {later_rounds(rows, 11):.2f} s a round, {flat:+.1f} MB from round 3 to 11")
    machine = {"cores": os.cpu_count(), "cpu": cpu_model(), "load": os.getloadavg()[0]}
    rest = {"machine": machine, "seconds": found, "ratios": ratios, "many_clients": many}
    RESULTS.write_text(
        json.dumps({"command": f"python benchmarks/engine.py {' '.join(sys.argv[1:])}".strip(), **rest}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
