"""Distilling strategies on two Ray actors against bare PyTorch loops that only train: seconds a round, and their ratios.

    python benchmarks/distillation_speed.py            # about five minutes on two idle cores
    python benchmarks/distillation_speed.py --quick    # a tenth of the images, two rounds: does it run?

52,000 images of Fashion-MNIST (28x28, one channel), 20 clients by Dirichlet 0.1 (flwr-datasets' plain draw: 80 to 8,198 images
each), each with a CNN of 582,026 parameters, one epoch a round in batches of 32, SGD with a learning rate of 0.01 and nothing
else, no evaluation. Every contender runs in processes of its own, one after the other, on the same images of the same clients.

The bare loops train one net a client on its labels and exchange nothing: in fp32 with two threads; in bf16 (autocast, nets
channels-last) with two threads; in two one-thread processes of the latter, the clients split so that both have the same number
of images. This one is the bound: from the start of a round to the end of the slower process. The loops do what a careful person
does: nets and fused optimisers are made once, a batch is gathered as bytes and normalised. A figure is the median over the
rounds from the second on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedkd import Experiment

RESULTS = Path(__file__).parent / "results" / "distillation_speed.json"
IMAGES, CLIENTS, BATCH, LR, ACTORS = 52_000, 20, 32, 0.01, 2
NET = {"channels": [32, 64], "kernel": 5, "padding": 0, "hidden": 512}
BARE = {"bare, fp32, two threads": ("fp32", 2), "bare, bf16, two threads": ("bf16", 2)}
BOUND = "bare, bf16, two processes"
#: Strategy -> at most so many times the bound. FML trains two nets, its own and the shared one.
GOALS = {"fd": 1.3, "fedproto": 1.3, "fml": 2.5}


def experiment(strategy: str, rounds: int, images: int) -> Experiment:
    """The one setting that all contenders share."""
    from fedkd import Experiment

    return Experiment(
        strategy=strategy,
        rounds=rounds,
        evaluate_every=10**6,
        evaluate_clients=0,
        nets="cnn",
        shared_net="cnn",
        net_options={"cnn": NET},
        data={"source": "fashion_mnist", "train_limit": images, "clients": CLIENTS, "alpha": 0.1, "client_test": 0.0},
        train={"batch_size": BATCH, "lr": LR, "momentum": 0.0, "weight_decay": 0.0, "precision": "bf16"},
        engine={"name": "ray", "actors": ACTORS, "num_cpus": 1},
    )


def report(round: int, began: float, ended: float) -> None:
    """One line of JSON, for the process that compares."""
    print(json.dumps({"round": round, "began": began, "ended": ended}), flush=True)


def bare(clients: Iterable[int], images: int, precision: str, threads: int) -> Callable[[], None]:
    """A function that trains these clients' nets for one epoch, one client after the other."""
    import torch

    from fedkd.nets import build_net

    torch.set_num_threads(threads)
    federation, bf16 = experiment("fedavg", 1, images).federation(), precision == "bf16"
    source, rng = federation.source, torch.Generator().manual_seed(0)
    mean, std = (moment.view(1, -1, 1, 1) for moment in source.moments)
    rows_of = {client: federation.client_train(client).indices for client in clients}
    nets = {client: build_net("cnn", shape=(1, 28, 28), classes=10, options=NET) for client in rows_of}
    if bf16:
        nets = {client: net.to(memory_format=torch.channels_last) for client, net in nets.items()}  # type: ignore[call-overload]
    optimizers = {client: torch.optim.SGD(net.parameters(), lr=LR, fused=True) for client, net in nets.items()}

    def one_round() -> None:
        for client, rows in rows_of.items():
            net, optimizer = nets[client].train(), optimizers[client]
            for batch in rows[torch.randperm(len(rows), generator=rng)].split(BATCH):
                pixels = (source.train_inputs[batch].float() / 255 - mean) / std
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    logits = net(pixels)
                loss = torch.nn.functional.cross_entropy(logits.float(), source.train_labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    return one_round


def alone(name: str, rounds: int, images: int) -> None:
    """All clients in this process."""
    one_round = bare(range(CLIENTS), images, *BARE[name])
    for round in range(1, rounds + 1):
        began = time.perf_counter()
        one_round()
        report(round, began, time.perf_counter())


def side_by_side(rounds: int, images: int) -> None:
    """Two processes, each with half of the images; they start each round together."""
    federation = experiment("fedavg", 1, images).federation()
    halves: list[list[int]] = [[], []]
    totals = [0, 0]
    for size, client in sorted(((len(federation.client_train(client)), client) for client in range(CLIENTS)), reverse=True):
        lighter = totals.index(min(totals))
        halves[lighter].append(client)
        totals[lighter] += size
    fresh = multiprocessing.get_context("spawn")
    together = fresh.Barrier(len(halves))
    workers = [fresh.Process(target=half_of_them, args=(half, rounds, images, together)) for half in halves]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit(f"a process of the bare loop ended with {worker.exitcode}")


def half_of_them(clients: list[int], rounds: int, images: int, together: Any) -> None:
    """One of the two processes."""
    one_round = bare(clients, images, "bf16", 1)
    for round in range(1, rounds + 1):
        together.wait(timeout=600)
        began = time.perf_counter()
        one_round()
        report(round, began, time.perf_counter())


def ours(strategy: str, rounds: int, images: int) -> None:
    """A strategy on the Ray engine; a round is all that lies between two rows of metrics."""
    from fedkd import simulate

    last = [time.perf_counter()]

    def on_round(row: dict[str, Any]) -> None:
        if failures := row.get("failures"):
            raise SystemExit(f"{strategy}, round {row['round']}: {failures}")
        now = time.perf_counter()
        if row["round"]:
            report(row["round"], last[0], now)
        last[0] = now

    # The last round is evaluated, so it is left out of the figures: run one more.
    simulate(experiment(strategy, rounds + 1, images), on_round=on_round)


def measure(name: str, rounds: int, images: int) -> float:
    """Median seconds of the rounds from the second on; of processes side by side, to the end of the slower one."""
    arguments = ["--contender", name, "--rounds", str(rounds), "--images", str(images)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, env=environment, timeout=1800, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    spans = [[row for row in rows if row["round"] == round] for round in range(2, rounds + 1)]
    seconds = float(statistics.median(max(r["ended"] for r in span) - min(r["began"] for r in span) for span in spans))
    print(f"  {name:28} {seconds:6.2f} s a round", flush=True)
    return seconds


def compare(strategies: Iterable[str], rounds: int, images: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds a round of each contender, and the strategies' ratios to the bound."""
    seconds = {name: measure(name, rounds if "bf16" in name else 2, images) for name in [*BARE, BOUND, *strategies]}
    return seconds, {name: seconds[name] / seconds[BOUND] for name in strategies}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="2 or more; the first is not counted")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--strategies", nargs="+", default=list(GOALS), help="any; goals are known for fd, fedproto and fml")
    parser.add_argument("--quick", action="store_true", help="a tenth of the images, two rounds, no file written")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        if given.contender == BOUND:
            return side_by_side(given.rounds, given.images)
        return (alone if given.contender in BARE else ours)(given.contender, given.rounds, given.images)
    rounds, images = (2, IMAGES // 10) if given.quick else (given.rounds, given.images)
    if (load := os.getloadavg()[0]) > 0.5:
        print(f"the load is {load:.1f}: these figures say little before it is near 0", flush=True)
    seconds, ratios = compare(given.strategies, rounds, images)
    for name, ratio in ratios.items():
        verdict = "met" if ratio <= GOALS.get(name, ratio) else "MISSED"
        goal = f"goal {GOALS[name]:.1f}: {verdict}" if name in GOALS and not given.quick else ""
        print(f"{name:30} {ratio:5.2f} x the bound  {goal}")
    if given.quick:
        return
    from fedkd.results.environment import cpu_model

    machine = {"cores": os.cpu_count(), "cpu": cpu_model(), "load before": load, "load after": os.getloadavg()[0]}
    found = {"machine": machine, "seconds_a_round": seconds, "times_the_bound": ratios, "goals": GOALS}
    command = f"python benchmarks/distillation_speed.py {' '.join(sys.argv[1:])}".strip()
    RESULTS.write_text(json.dumps({"command": command, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
