"""FedX's local training: images a second, resnet18 of width 16, batches of 64 images (192 forwarded), on CIFAR-10.

    python benchmarks/fedx_step.py --cifar10 DIR      # DIR holds train.parquet and test.parquet

One client in one process with two torch threads and with one, then two clients on two one-thread Ray actors; in bf16 and fp32.
A client's seconds are those of its whole exchange: loading the weights, training, and giving back the result.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "fedx_step.json"
IMAGES = 64 * 30


def images_a_second(path: str, strategy: str, engine: str, threads: int, precision: str, rounds: int) -> float:
    """The best round after the first; summed over clients that train side by side."""
    from fedkd import Experiment, simulate

    clients = 2 if engine == "ray" else 1
    data: dict[str, Any] = {"source": "cifar10", "path": path, "clients": clients, "partition": "iid", "client_test": 0.0}
    experiment = Experiment(
        strategy=strategy,
        rounds=rounds,
        evaluate_every=10**6,
        evaluate_clients=0,
        nets="resnet18",
        net_options={"resnet18": {"width": 16}},
        data=data | {"train_limit": IMAGES * clients},
        train={"batch_size": 64, "lr": 0.01, "precision": precision},
        engine={"name": engine, "num_cpus": threads},
    )
    history = simulate(experiment)
    found = [
        sum(IMAGES / row["seconds"] for row in history.clients if row["round"] == round and "seconds" in row)
        for round in range(2, rounds + 1)
    ]
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", required=True, help="a folder with train.parquet and test.parquet")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    setups = {
        "one process, two threads": ("in-process", 2),
        "one process, one thread": ("in-process", 1),
        "two one-thread Ray actors": ("ray", 1),
    }
    speeds: dict[str, float] = {}
    for strategy, precision in (("fedx", "bf16"), ("fedx", "fp32"), ("fedsimclr", "bf16")):
        for name, (engine, threads) in setups.items():
            label = f"{strategy}, {precision}, {name}"
            speeds[label] = images_a_second(given.cifar10, strategy, engine, threads, precision, given.rounds)
            print(f"{label:50} {speeds[label]:6.0f} images/s", flush=True)
    one = "one process, one thread"
    ratios = {
        "bf16 over fp32, one thread": speeds[f"fedx, bf16, {one}"] / speeds[f"fedx, fp32, {one}"],
        "cost of FedX over FedSimCLR an image": speeds[f"fedsimclr, bf16, {one}"] / speeds[f"fedx, bf16, {one}"],
    }
    for name, value in ratios.items():
        print(f"{name:50} {value:6.2f}")
    from fedkd.runs.environment import cpu_model

    machine = {"cores": os.cpu_count(), "cpu": cpu_model(), "load": os.getloadavg()[0]}
    found = {"command": "python benchmarks/fedx_step.py --cifar10 DIR", "machine": machine}
    RESULTS.write_text(json.dumps(found | {"images_a_second": speeds, "ratios": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    main()
