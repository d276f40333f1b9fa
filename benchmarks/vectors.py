"""Many small clients on tables: a round of FedAvg against a careful PyTorch loop, as a ratio from alternating runs.

    python benchmarks/vectors.py                # 500 clients of 64 rows x 30 features, an MLP of 64, batches of 32; 3 minutes
    python benchmarks/vectors.py --pairs 3

Each contender runs in a process of its own, one torch thread, in turn; of each run the median round counts, the first left
out, and the ratio is the median of the pairs. The loop normalises once, as no framework can that loads what it is given.
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

RESULTS = Path(__file__).parent / "results" / "vectors.json"
CLIENTS, ROWS, FEATURES, BATCH, LR, MOMENTUM, DECAY = 500, 64, 30, 32, 0.01, 0.9, 1e-5


def table() -> Any:
    """Rows of noise with a class each that moves their mean."""
    import torch

    from fedkd.data import Source

    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(CLIENTS * ROWS) % 2
    rows = torch.randn(len(labels), FEATURES, generator=rng) + labels[:, None]
    return Source("noise", rows, labels, rows[:100], labels[:100], ("a", "b"))


def careful(rounds: int) -> None:
    """What a careful person writes without any framework: fused SGD, all weights copied and summed at once."""
    import torch

    from fedkd.nets import build_net

    torch.set_num_threads(1)
    source = table()
    mean, std = source.moments
    rows = (source.train_inputs - mean) / std
    net, rng = build_net("mlp", shape=(FEATURES,), classes=2, options={"hidden": (64,)}), torch.Generator().manual_seed(0)
    parameters = list(net.parameters())
    weights = [parameter.detach().clone() for parameter in parameters]
    for _ in range(rounds):
        began, total = time.perf_counter(), [torch.zeros_like(weight) for weight in weights]
        for client in range(CLIENTS):
            with torch.no_grad():
                torch._foreach_copy_(parameters, weights)
            optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, fused=True)
            for positions in torch.randperm(ROWS, generator=rng).split(BATCH):
                chosen = client * ROWS + positions
                loss = torch.nn.functional.cross_entropy(net(rows[chosen]), source.train_labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                torch._foreach_add_(total, parameters, alpha=1 / CLIENTS)
        weights = total
        print(time.perf_counter() - began, flush=True)


def ours(rounds: int) -> None:
    """The same as an experiment, in this process."""
    from fedkd import Experiment, simulate

    data = {"source": table, "clients": CLIENTS, "partition": "iid", "client_test": 0.0}
    train = {"batch_size": BATCH, "lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY}
    settings = {"nets": "mlp", "net_options": {"mlp": {"hidden": [64]}}, "evaluate_every": 10**6, "evaluate_clients": 0}
    last = [time.perf_counter()]

    def on_round(row: dict[str, Any]) -> None:
        now = time.perf_counter()
        if row["round"]:
            print(now - last[0], flush=True)
        last[0] = now

    experiment = Experiment(strategy="fedavg", rounds=rounds + 1, train=train, data=data, **settings)  # the last is evaluated
    simulate(experiment, "in-process", on_round=on_round)


def seconds_a_round(contender: str, rounds: int) -> float:
    """The median of its rounds but the first."""
    command = [sys.executable, __file__, "--contender", contender, "--rounds", str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return statistics.median(float(line) for line in done.stdout.split()[1:rounds])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--contender", choices=["careful", "ours"])
    given = parser.parse_args()
    if given.contender:
        return {"careful": careful, "ours": ours}[given.contender](given.rounds)
    from fedkd.results.environment import cpu_model

    pairs = []
    for number in range(given.pairs):
        pairs.append({name: seconds_a_round(name, given.rounds) for name in ("careful", "ours")})
        print(
            f"  {number + 1}/{given.pairs}: {pairs[-1]['careful']:.3f} s the loop, {pairs[-1]['ours']:.3f} s in-process",
            flush=True,
        )
    ratios = sorted(pair["ours"] / pair["careful"] for pair in pairs)
    print(f"in-process over the careful loop: median {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}")
    machine = {"cores": os.cpu_count(), "cpu": cpu_model(), "load": os.getloadavg()[0]}
    found = {"ratio": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}
    command = f"python benchmarks/vectors.py {' '.join(sys.argv[1:])}".strip()
    RESULTS.write_text(json.dumps({"command": command, "machine": machine, **found, "pairs": pairs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
