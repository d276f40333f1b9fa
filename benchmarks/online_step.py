"""A step of deep mutual learning on our engines against bare PyTorch loops: seconds a step, from one run, as ratios.

    python benchmarks/online_step.py                  # about six minutes
    python benchmarks/online_step.py --repeats 2

Peers are ResNet-18 of width 16, batches of 64 images of Fashion-MNIST, SGD with momentum, one torch thread a peer; a round has
20 steps, and writing the peers' memories at its end is counted. What the exchange itself costs is measured with an MLP of 16
units, whose training costs next to nothing, in rounds of 400 steps: seconds a step less those of the bare loop over the same
nets. Every contender runs in a process of its own, all of them one after the other, again and again; of each the median round
of its best process counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "online_step.json"
BATCH, LR, MOMENTUM = 64, 0.05, 0.9
STEPS = {"resnet18": 20, "tiny": 400}  # a round
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("resnet18", {"width": 16}),
    "tiny": ("mlp", {"hidden": [16]}),
}
#: What runs, which net, how many peers.
CONTENDERS = [
    *(("steps", "resnet18", 2), ("in-process", "resnet18", 2), ("dml", "resnet18", 2), ("ray", "resnet18", 2)),
    *(("steps", "resnet18", 4), ("in-process", "resnet18", 4)),
    *(("dml", "tiny", 2), ("in-process", "tiny", 2), ("ray", "tiny", 2)),
]


def bare(net: str, peers: int, rounds: int, *, mutual: bool) -> list[float]:
    """Seconds a step of every round of a loop that a careful person writes: K steps of training, or of mutual learning."""
    import torch
    from torch.nn.functional import cross_entropy, kl_div

    from fedkd.data import load_source
    from fedkd.nets import build_net

    torch.set_num_threads(1)
    source, (architecture, options) = load_source("fashion_mnist"), NETS[net]
    mean, std = (moment.view(1, -1, 1, 1) for moment in source.moments)
    nets = [build_net(architecture, shape=(1, 28, 28), classes=10, options=options) for _ in range(peers)]
    nets = [net.to(memory_format=torch.channels_last) for net in nets]  # type: ignore[call-overload]
    optimizers = [torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM, fused=True) for net in nets]
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        for rows in torch.randperm(STEPS[net] * BATCH).split(BATCH):
            images, labels = (source.train_inputs[rows].float() / 255 - mean) / std, source.train_labels[rows]
            images = images.contiguous(memory_format=torch.channels_last)
            logits = [net(images) for net in nets]
            for me, optimizer in enumerate(optimizers):
                loss = cross_entropy(logits[me], labels)
                for other in range(peers if mutual else 0):
                    if other != me:
                        target = logits[other].detach().softmax(1)
                        loss = loss + kl_div(logits[me].log_softmax(1), target, reduction="batchmean") / (peers - 1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        seconds.append((time.perf_counter() - began) / STEPS[net])
    return seconds


def ours(engine: str, net: str, peers: int, rounds: int) -> list[float]:
    """The same from our engine."""
    from fedkd import Experiment, simulate

    architecture, options = NETS[net]
    experiment = Experiment(
        strategy="dml",
        rounds=rounds + 1,  # the last is evaluated
        evaluate_every=10**6,
        evaluate_clients=1,
        nets=architecture,
        net_options={architecture: options},
        train={"batch_size": BATCH, "lr": LR, "momentum": MOMENTUM},
        data={
            "source": "fashion_mnist",
            "train_limit": STEPS[net] * BATCH,
            "clients": peers,
            "partition": "shared",
            "client_test": 0,
        },
        engine={"name": engine, "actors": peers} if engine == "ray" else {"name": engine},
    )
    last, seconds = [0.0], []

    def on_round(row: dict[str, Any]) -> None:
        now = time.perf_counter()
        seconds.append((now - last[0]) / STEPS[net])
        last[0] = now

    simulate(experiment, on_round=on_round)
    return seconds[1:-1]


def contend(kind: str, net: str, peers: int, rounds: int) -> list[float]:
    """Seconds a step, a number a round; the first round warms up."""
    if kind in ("steps", "dml"):
        return bare(net, peers, rounds, mutual=kind == "dml")[1:]
    return ours(kind, net, peers, rounds)[1:]


def measure(repeats: int, rounds: int) -> dict[str, float]:
    """The best process's median round of every contender, seconds a step."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    found: dict[str, float] = {}
    for repeat in range(repeats):
        for kind, net, peers in CONTENDERS:
            name = f"{kind}, {net}, K = {peers}"
            command = [sys.executable, __file__, "--contender", kind, net, str(peers), "--rounds", str(rounds)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800, check=False)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr[-2000:]}")
            now = statistics.median(json.loads(done.stdout.splitlines()[-1]))
            found[name] = min(found.get(name, now), now)
            print(f"  {name} ({repeat + 1}/{repeats}): {1e3 * now:.2f} ms a step", flush=True)
    return found


def ratios_of(found: dict[str, float]) -> dict[str, float]:
    """What the goals speak of."""
    return {
        "DML, K = 2, in-process over 2 bare training steps": found["in-process, resnet18, K = 2"]
        / found["steps, resnet18, K = 2"],
        "DML, K = 4, in-process over 4 bare training steps": found["in-process, resnet18, K = 4"]
        / found["steps, resnet18, K = 4"],
        "DML, K = 2, on 2 Ray actors over the bare DML loop": found["ray, resnet18, K = 2"] / found["dml, resnet18, K = 2"],
        "exchange, K = 2, in-process (ms)": 1e3 * (found["in-process, tiny, K = 2"] - found["dml, tiny, K = 2"]),
        "exchange, K = 2, on Ray (ms)": 1e3 * (found["ray, tiny, K = 2"] - found["dml, tiny, K = 2"] / 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contender", nargs=3, metavar=("KIND", "NET", "PEERS"))
    given = parser.parse_args()
    if given.contender:
        kind, net, peers = given.contender
        return print(json.dumps(contend(kind, net, int(peers), given.rounds)))
    from fedkd.results.environment import cpu_model

    found = measure(given.repeats, given.rounds)
    ratios = ratios_of(found)
    for name, value in ratios.items():
        print(f"{name:60} {value:6.2f}")
    machine = {"cores": os.cpu_count(), "cpu": cpu_model(), "load": os.getloadavg()[0]}
    command = f"python benchmarks/online_step.py {' '.join(sys.argv[1:])}".strip()
    seconds = {name: round(value, 6) for name, value in found.items()}
    RESULTS.write_text(
        json.dumps({"command": command, "machine": machine, "seconds": seconds, "ratios": ratios}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
