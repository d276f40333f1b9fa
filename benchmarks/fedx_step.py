"""What FedX costs: over a careful loop, images a second of every base, the views' share of a step, and the probe's head.

    python benchmarks/fedx_step.py --only-careful     # FedX over a careful loop: a minute and a half
    python benchmarks/fedx_step.py                    # Fashion-MNIST, all of it: in under six minutes
    python benchmarks/fedx_step.py --cifar10 DIR      # DIR holds train.parquet and test.parquet

resnet18 of width 16, batches of 64 images (FedX forwards 192), float32 unless --bf16 adds the other. Bases are trained by one
client in one process with one torch thread, in turn, again and again; then FedX and FedSimCLR also with two threads, and by
two clients on two one-thread Ray actors. Of each the best round counts. A client's seconds are those of its whole exchange:
loading the weights, training, and giving back the result. The views are timed inside that training. The careful loop
(fedx_careful.py) does the same without a framework; both train in turn, and the median of the turns' ratios counts.

The probe's head is trained on 60,000 features against two plain loops: the one of FedX's repository, over a DataLoader, and a
leaner one that indexes tensors. Only a few epochs are: seconds are linear in them, and ours count what it sets up once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

RESULTS = Path(__file__).parent / "results" / "fedx_step.json"
BATCH = 64
FEATURES, WIDTHS, CLASSES, EPOCHS = 60_000, (128, 512), 10, 100  # of the probe
ONE_THREAD, TWO_THREADS, RAY = "one process, one thread", "one process, two threads", "two one-thread Ray actors"
ENGINES = {ONE_THREAD: ("in-process", 1), TWO_THREADS: ("in-process", 2), RAY: ("ray", 1)}


@dataclass(frozen=True)
class Speed:
    """The best round of a client, or of several that train side by side."""

    images: float  # a second
    views: float  # their share of the seconds; nan on Ray, which is not looked into

    def better(self, other: Speed | None) -> Speed:
        """The faster of two measurements."""
        return self if other is None or self.images > other.images else other


@contextmanager
def timed_views() -> Iterator[list[float]]:
    """Inside the block every random view in this process adds its seconds to the list's only number."""
    from fedkd.experiment.algorithm.train import Batch

    seconds, plain = [0.0], Batch.view

    def view(self: Batch, number: int) -> Tensor:
        began = time.perf_counter()
        made = plain(self, number)
        seconds[0] += time.perf_counter() - began
        return made

    Batch.view = view  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        Batch.view = plain  # type: ignore[method-assign]


def train(strategy: dict[str, Any], place: str, given: argparse.Namespace, precision: str = "fp32") -> Speed:
    """A few rounds of this strategy; the first warms up."""
    from fedkd import Experiment, simulate

    engine, threads = ENGINES[place]
    clients = 2 if engine == "ray" else 1
    source = {"source": "cifar10", "path": given.cifar10} if given.cifar10 else {"source": "fashion_mnist"}
    limits = {"train_limit": given.images * clients, "test_limit": BATCH}  # evaluations are not measured
    experiment = Experiment(
        strategy=strategy,
        rounds=given.rounds,
        evaluate_every=10**6,
        evaluate_clients=0,
        nets="resnet18",
        net_options={"resnet18": {"width": 16}},
        data={**source, **limits, "clients": clients, "partition": "iid", "client_test": 0.0},
        train={"batch_size": BATCH, "lr": 0.01, "precision": precision},
        engine={"name": engine, "num_cpus": threads},
    )
    looked = {0: 0.0}  # seconds of views until the end of a round
    with timed_views() as views:
        history = simulate(experiment, on_round=lambda row: looked.update({row["round"]: views[0]}))
    best: Speed | None = None
    for round in range(2, given.rounds + 1):
        seconds = [row["seconds"] for row in history.clients if row["round"] == round and "seconds" in row]
        share = (looked[round] - looked[round - 1]) / seconds[0] if engine == "in-process" else float("nan")
        best = Speed(sum(given.images / each for each in seconds), share).better(best)
    assert best is not None
    return best


def contenders() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Base -> the strategy of it alone, and FedX with it: those that there are."""
    from fedkd.experiment import registry
    from fedkd.methods.contrastive import BASES

    found = {}
    for base in BASES:
        alone = next((name for name in (f"fed{base}", base) if name in registry.names()), None)
        if alone:
            found[base] = ({"name": alone}, {"name": "fedx", "base": base})
    return found


def measure_bases(given: argparse.Namespace) -> dict[str, Any]:
    """Every base alone and under FedX, in turn."""
    speeds: dict[str, Speed] = {}
    left_out: dict[str, str] = {}
    for repeat in range(given.repeats):
        for base, strategies in contenders().items():
            for label, strategy in zip((base, f"FedX with {base}"), strategies, strict=True):
                if label in left_out:
                    continue
                try:
                    speeds[label] = train(strategy, ONE_THREAD, given).better(speeds.get(label))
                except ValueError as error:  # FedX cannot build on every base
                    left_out[label] = str(error).splitlines()[0]
                    print(f"  {label}: left out: {left_out[label]}", flush=True)
                    continue
                now = speeds[label]
                print(f"  {label} ({repeat + 1}/{given.repeats}): {now.images:.0f} images/s, views {now.views:.1%}", flush=True)
    pairs = [base for base in contenders() if {base, f"FedX with {base}"} <= speeds.keys()]
    costs = {f"FedX with {base} over {base}": speeds[base].images / speeds[f"FedX with {base}"].images for base in pairs}
    others = {f"{base} over simclr": speeds["simclr"].images / speeds[base].images for base in speeds if base in contenders()}
    return {
        "images_a_second": {label: speed.images for label, speed in speeds.items()},
        "views_share_of_a_step": {label: speed.views for label, speed in speeds.items()},
        "cost_an_image": costs | {label: cost for label, cost in others.items() if label != "simclr over simclr"},
        "left_out": left_out,
    }


def measure_yardstick(given: argparse.Namespace) -> dict[str, Any]:
    """FedX with SimCLR in one process and thread against the careful loop: of each turn the best round of both."""
    from fedx_careful import train as careful

    from fedkd.data import load_source

    torch.set_num_threads(1)
    source = load_source("cifar10", given.cifar10) if given.cifar10 else load_source("fashion_mnist")
    mean, std = (moment.view(1, -1, 1, 1) for moment in source.moments)
    turns = []
    for repeat in range(given.repeats + 1):  # they are short
        loop = careful(source.train_inputs[: given.images], (mean, std), BATCH, given.rounds, width=16)
        seconds = {"careful": min(clock for clock, _ in loop[1:])}
        seconds["ours"] = given.images / train({"name": "fedx"}, ONE_THREAD, given).images
        turns.append(seconds)
        ratio = seconds["ours"] / seconds["careful"]
        print(f"  FedX over the careful loop ({repeat + 1}/{given.repeats + 1}): {ratio:.3f}", flush=True)
    return {"ratio": statistics.median(turn["ours"] / turn["careful"] for turn in turns), "seconds_a_round": turns}


def measure_engines(given: argparse.Namespace) -> dict[str, float]:
    """FedX and FedSimCLR, in turn, where else they run: images a second."""
    places = [("fp32", TWO_THREADS), ("fp32", RAY), *(("bf16", place) for place in ENGINES if given.bf16)]
    speeds: dict[str, Speed] = {}
    for repeat in range(given.repeats):
        for precision, place in places:
            for strategy in ("fedsimclr", "fedx"):
                label = f"{strategy}, {precision}, {place}"
                speeds[label] = train({"name": strategy}, place, given, precision).better(speeds.get(label))
                print(f"  {label} ({repeat + 1}/{given.repeats}): {speeds[label].images:.0f} images/s", flush=True)
    return {label: speed.images for label, speed in speeds.items()}


def official(features: Tensor, labels: Tensor, epochs: int) -> None:
    """The head's training in FedX's repository (utils.py, test_linear_fedX)."""
    loader = DataLoader(TensorDataset(features, labels), batch_size=BATCH, shuffle=True)
    head, criterion = nn.Linear(features.shape[1], CLASSES), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3, weight_decay=1e-6)
    for _ in range(epochs):
        for x, y in loader:
            loss = criterion(head(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def lean(features: Tensor, labels: Tensor, epochs: int) -> None:
    """The same without a DataLoader."""
    head, criterion = nn.Linear(features.shape[1], CLASSES), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3, weight_decay=1e-6)
    for _ in range(epochs):
        for rows in torch.randperm(len(features)).split(BATCH):
            loss = criterion(head(features[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def ours(features: Tensor, labels: Tensor, epochs: int) -> None:
    """What an experiment's evaluation runs."""
    from fedkd.engine.evaluation.probe import linear_probe

    linear_probe(features, labels, classes=CLASSES, generator=torch.Generator(), epochs=epochs, batch_size=BATCH)


def measure_probe(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of 100 epochs, the best of a few turns, and ratios."""
    torch.set_num_threads(1)
    loops: dict[str, Callable[[Tensor, Tensor, int], None]] = {"official": official, "lean": lean, "ours": ours}
    seconds: dict[str, float] = {}
    for width in WIDTHS:
        features, labels = torch.randn(FEATURES, width).relu_(), torch.randint(CLASSES, (FEATURES,))
        for _ in range(2 * given.repeats):  # they are short
            for name, loop in loops.items():
                began = time.perf_counter()
                loop(features, labels, given.probe_epochs)
                now, label = (time.perf_counter() - began) / given.probe_epochs * EPOCHS, f"{name}, width {width}"
                seconds[label] = min(seconds.get(label, now), now)
    ratios = {
        f"ours over {name}, width {width}": seconds[f"ours, width {width}"] / seconds[f"{name}, width {width}"]
        for width in WIDTHS
        for name in ("official", "lean")
    }
    return {"epochs_measured": given.probe_epochs, f"seconds_of_{EPOCHS}_epochs": seconds, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--fashion-mnist", action="store_true", help="the default")
    source.add_argument("--cifar10", metavar="DIR", help="a folder with train.parquet and test.parquet")
    parser.add_argument("--images", type=int, default=BATCH * 6, help="a client's")
    parser.add_argument("--rounds", type=int, default=3, help="of one measurement, the first of them unmeasured")
    parser.add_argument("--repeats", type=int, default=2, help="of every measurement, in turn")
    parser.add_argument("--probe-epochs", type=int, default=2)
    parser.add_argument("--only-careful", action="store_true", help="only FedX over the careful loop; the rest is kept")
    parser.add_argument("--bf16", action="store_true", help="also in bf16, slow on a CPU without instructions for it")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    given = parser.parse_args()
    if given.rounds < 2:
        parser.error("--rounds: at least 2, as the first warms up")
    from fedkd.results.environment import cpu_model

    machine = {"cores": os.cpu_count(), "cpu": cpu_model(), "load": os.getloadavg()[0]}  # before it is ours
    yardstick = {"over_careful": measure_yardstick(given) | {"machine": machine}}
    print(f"{'FedX over the careful loop':50} {yardstick['over_careful']['ratio']:6.3f}")
    if given.only_careful:
        kept = json.loads(given.results.read_text()) if given.results.exists() else {}
        given.results.write_text(json.dumps({**kept, **yardstick}, indent=1) + "\n")
        return
    found: dict[str, Any] = {**measure_bases(given), "engines": measure_engines(given), "probe": measure_probe(given)}
    for name, value in {**found["cost_an_image"], **found["probe"]["ratios"]}.items():
        print(f"{name:50} {value:6.2f}")
    shown = [{given.cifar10: "DIR", str(given.results): "FILE"}.get(argument, argument) for argument in sys.argv[1:]]
    command = f"python benchmarks/fedx_step.py {' '.join(shown)}".strip()
    given.results.write_text(json.dumps({"command": command, "machine": machine, **yardstick, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
