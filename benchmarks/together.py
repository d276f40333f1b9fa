"""Engine `together` against a bare PyTorch loop: many small clients, seconds of a round, as ratios.

    python benchmarks/together.py                              # 500 clients x 60 images; about 20 minutes on one idle core
    python benchmarks/together.py --nets linear --epochs 1     # a part of it; what is measured already is not measured again
    python benchmarks/together.py --again                      # measure all again

500 clients of 60 images of Fashion-MNIST each, all take part, batches of 10, one or five local epochs, SGD with momentum 0.9,
one torch thread. ``linear`` is softmax regression, 784-10, and ``mlp`` is 784-64-10. The bare loop is what one writes for the
same training without any framework: one net, one client after the other, and the algorithm's own exchange. Every contender is a
process of its own; they take turns, three times. Of each the median of its rounds after the first counts, in processor time,
which other work on the machine moves less than the clock; that of the clock stands beside it. A ratio is the median of three,
and its interval is all of them. Seed 0; results go to results/together.jsonl, a line a contest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "together.jsonl"
STRATEGIES = ("fedavg", "fedprox", "fd", "fedproto", "dsfl", "fedntd")
HIDDEN = {"linear": [], "mlp": [64]}
GOALS = {"linear": 0.3, "mlp": 0.6}
ENGINES = ("bare", "in-process", "together")
CLIENTS, IMAGES, PUBLIC, BATCH, ROUNDS = 500, 60, 200, 10, 4
LR, MOMENTUM, DECAY, CLASSES = 0.01, 0.9, 1e-5, 10


def stopwatch() -> Callable[[int], None]:
    """Prints what the time from one call to the next was, all that a round costs."""
    last = [time.process_time(), time.perf_counter()]

    def on_round(round: int) -> None:
        now = [time.process_time(), time.perf_counter()]
        if round:
            print(json.dumps({"round": round, "cpu": now[0] - last[0], "seconds": now[1] - last[1]}), flush=True)
        last[:] = now

    return on_round


def ours(engine: str, strategy: str, net: str, epochs: int) -> None:
    from fedkd import Experiment, simulate

    data = {"source": "fashion_mnist", "clients": CLIENTS, "partition": "iid", "client_test": 0.0}
    data |= {
        "train_limit": CLIENTS * IMAGES + (PUBLIC if strategy == "dsfl" else 0),
        "public": PUBLIC if strategy == "dsfl" else 0,
    }
    train = {"batch_size": BATCH, "lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY, "epochs": epochs}
    settings = {"nets": "mlp", "net_options": {"mlp": {"hidden": HIDDEN[net]}}, "evaluate_every": 10**6, "evaluate_clients": 1}
    # The last round is evaluated, so it is left out of the figures: run one more.
    experiment = Experiment(strategy=strategy, rounds=ROUNDS + 1, data=data, train=train, **settings)
    watch = stopwatch()
    simulate(experiment, engine, on_round=lambda row: watch(row["round"] if row["round"] <= ROUNDS else 0))


class Bare:
    """One client after the other on one net, whose weights are copied in and out."""

    def __init__(self, strategy: str, net: str, epochs: int) -> None:
        import torch
        from torch import nn

        from fedkd.data import load_source

        torch.set_num_threads(1)
        torch.manual_seed(0)
        source = load_source("fashion_mnist")
        self.mean, self.std = (moment.view(1, -1, 1, 1) for moment in source.moments)
        self.images, self.labels = source.train_inputs, source.train_labels
        self.strategy, self.epochs, self.rng = strategy, epochs, torch.Generator().manual_seed(0)
        widths = [784, *HIDDEN[net]]
        hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.net = nn.ModuleDict({"encoder": nn.Sequential(nn.Flatten(), *hidden), "head": nn.Linear(widths[-1], CLASSES)})
        self.weights = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        self.own = [{name: tensor.clone() for name, tensor in self.weights.items()} for _ in range(CLIENTS)]
        self.width = CLASSES if strategy == "fd" else widths[-1]
        self.teachers: Any = torch.zeros(CLIENTS, CLASSES, self.width)
        self.known = torch.zeros(CLIENTS, CLASSES, dtype=torch.bool)

    def inputs(self, rows: Any) -> Any:
        return (self.images[rows].float() / 255 - self.mean) / self.std

    def train(self, loss: Callable[[Any, Any], Any], start: int, size: int) -> None:
        import torch

        optimizer = torch.optim.SGD(self.net.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
        for _ in range(self.epochs):
            for positions in torch.randperm(size, generator=self.rng).split(BATCH):
                rows = start + positions
                optimizer.zero_grad()
                loss(self.inputs(rows), rows).backward()
                optimizer.step()

    def shared_round(self) -> None:
        """FedAvg, FedProx and FedNTD: all start from the mean weights."""
        import torch
        import torch.nn.functional as F

        teacher = {name: tensor.clone() for name, tensor in self.weights.items()}
        total = {name: torch.zeros_like(tensor) for name, tensor in self.weights.items()}

        def taught(x: Any) -> Any:
            for i in range(1, len(self.net["encoder"]), 2):
                layer = f"encoder.{i}"
                x = F.relu(F.linear(x.flatten(1), teacher[f"{layer}.weight"], teacher[f"{layer}.bias"]))
            return F.linear(x.flatten(1), teacher["head.weight"], teacher["head.bias"])

        def loss(x: Any, rows: Any) -> Any:
            labels = self.labels[rows]
            logits = self.net["head"](self.net["encoder"](x))
            value = F.cross_entropy(logits, labels)
            if self.strategy == "fedprox":
                value = value + 0.005 * sum(((p - teacher[name]) ** 2).sum() for name, p in self.net.named_parameters())
            if self.strategy == "fedntd":
                kept = torch.ones_like(logits, dtype=torch.bool).scatter(1, labels[:, None], False)
                with torch.no_grad():
                    target = taught(x)[kept].view(len(x), -1).log_softmax(1)
                student = logits[kept].view(len(x), -1).log_softmax(1)
                value = value + F.kl_div(student, target, log_target=True, reduction="batchmean")
            return value

        for client in range(CLIENTS):
            self.net.load_state_dict(self.weights)
            self.train(loss, client * IMAGES, IMAGES)
            for name, tensor in self.net.state_dict().items():
                total[name] += tensor / CLIENTS
        self.weights = total

    def class_means_round(self) -> None:
        """FD and FedProto: nets of their own, and means by class."""
        import torch
        import torch.nn.functional as F

        means, counts = torch.zeros(CLIENTS, CLASSES, self.width), torch.zeros(CLIENTS, CLASSES)
        for client in range(CLIENTS):
            self.net.load_state_dict(self.own[client])

            def loss(x: Any, rows: Any, client: int = client) -> Any:
                labels = self.labels[rows]
                features = self.net["encoder"](x)
                logits = self.net["head"](features)
                value = F.cross_entropy(logits, labels)
                if self.strategy == "fd":
                    seen = logits.detach().softmax(1)
                    value = value - (self.teachers[client][labels] * logits.log_softmax(1)).sum(1).mean()
                else:
                    seen, known = features.detach(), self.known[client][labels]
                    distance = (features - self.teachers[client][labels]).square().mean(1)
                    value = value + (distance * known).sum() / known.sum().clamp(min=1)
                means[client].index_add_(0, labels, seen)
                counts[client].index_add_(0, labels, torch.ones(len(labels)))
                return value

            self.train(loss, client * IMAGES, IMAGES)
            self.own[client] = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        means /= counts.clamp(min=1)[..., None]
        held = (counts > 0).float()[..., None]  # (K, C, 1)
        rest = (means * held).sum(0) - means * held if self.strategy == "fd" else (means * held).sum(0).expand_as(means)
        others = held.sum(0) - held if self.strategy == "fd" else held.sum(0).expand_as(held)
        self.teachers, self.known = rest / others.clamp(min=1), others[..., 0] > 0

    def public_round(self) -> None:
        """DS-FL: nets of their own, which label public samples together and learn from that."""
        import torch
        import torch.nn.functional as F

        def local(x: Any, rows: Any) -> Any:
            return F.cross_entropy(self.net["head"](self.net["encoder"](x)), self.labels[rows])

        public, said = torch.arange(PUBLIC) + CLIENTS * IMAGES, []
        for client in range(CLIENTS):
            self.net.load_state_dict(self.own[client])
            self.train(local, client * IMAGES, IMAGES)
            with torch.no_grad():
                said.append(self.net["head"](self.net["encoder"](self.inputs(public))).softmax(1))
            self.own[client] = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        target = (torch.stack(said).mean(0) / 0.1).softmax(1)

        def distil(x: Any, rows: Any) -> Any:
            logits = self.net["head"](self.net["encoder"](x))
            return -(target[rows - CLIENTS * IMAGES] * logits.log_softmax(1)).sum(1).mean()

        for client in range(CLIENTS):
            self.net.load_state_dict(self.own[client])
            self.train(distil, CLIENTS * IMAGES, PUBLIC)
            self.own[client] = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}

    def run(self) -> None:
        rounds = {"fd": self.class_means_round, "fedproto": self.class_means_round, "dsfl": self.public_round}
        watch = stopwatch()
        for round in range(1, ROUNDS + 1):
            rounds.get(self.strategy, self.shared_round)()
            watch(round)


def measure(engine: str, strategy: str, net: str, epochs: int) -> dict[str, float]:
    """Seconds of a round after the first, median, by processor and by clock."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    asked = [sys.executable, __file__, "--contender", engine, "--strategies", strategy, "--nets", net, "--epochs", str(epochs)]
    done = subprocess.run(asked, capture_output=True, text=True, env=environment, timeout=1800, check=False)
    if done.returncode:
        raise SystemExit(f"{asked[2:]}: {done.stderr[-2000:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {key: statistics.median(row[key] for row in rows if row["round"] > 1) for key in ("cpu", "seconds")}


def contest(strategy: str, net: str, epochs: int, repeats: int) -> dict[str, Any]:
    """All contenders, in turn."""
    found: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
    for _ in range(repeats):
        for engine in ENGINES:
            found[engine].append(measure(engine, strategy, net, epochs))
    line: dict[str, Any] = {"strategy": strategy, "net": net, "epochs": epochs, "goal": GOALS[net]}
    line["cpu_seconds_a_round"] = {engine: [round(each["cpu"], 3) for each in each_of] for engine, each_of in found.items()}
    for engine, key in product(ENGINES[1:], ("cpu", "seconds")):
        ratios = sorted(mine[key] / bare[key] for mine, bare in zip(found[engine], found["bare"], strict=True))
        line[f"{engine} over bare, {key}"] = [round(ratio, 3) for ratio in (statistics.median(ratios), ratios[0], ratios[-1])]
    return line


def measured() -> Iterator[dict[str, Any]]:
    if RESULTS.exists():
        yield from map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--nets", nargs="+", choices=list(HIDDEN), default=list(HIDDEN))
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--contender", choices=ENGINES)
    given = parser.parse_args()
    cells = list(product(given.epochs, given.nets, given.strategies))
    if given.contender:
        ((epochs, net, strategy),) = cells
        if given.contender == "bare":
            return Bare(strategy, net, epochs).run()
        return ours(given.contender, strategy, net, epochs)
    from fedkd.results.environment import cpu_model

    lines = {(line["epochs"], line["net"], line["strategy"]): line for line in measured()}
    for epochs, net, strategy in cells:
        if given.again or (epochs, net, strategy) not in lines:
            line = contest(strategy, net, epochs, given.repeats)
            command = f"python benchmarks/together.py --strategies {strategy} --nets {net} --epochs {epochs}"
            lines[epochs, net, strategy] = line | {"seed": 0, "command": command, "hardware": f"{cpu_model()}, one core"}
            RESULTS.write_text("".join(json.dumps(each) + "\n" for _, each in sorted(lines.items())), encoding="utf-8")
        line = lines[epochs, net, strategy]
        ratios = ", ".join(f"{engine} {line[f'{engine} over bare, cpu']}" for engine in ENGINES[1:])
        print(f"{strategy:10} {net:7} {epochs} epochs, over the bare loop: {ratios}; goal {line['goal']}", flush=True)


if __name__ == "__main__":
    main()
