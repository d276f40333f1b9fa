"""pfl's CIFAR-10 benchmark at a small budget: FedAvg by pfl 0.6 and by fedkd on the same clients, and what distillation adds.

    python benchmarks/pfl_cifar10.py --cifar10 DIR               # DIR holds train.parquet and test.parquet; else the hub
    python benchmarks/pfl_cifar10.py --cifar10 DIR --seeds 1 2 --split dirichlet --methods fedavg
    python benchmarks/pfl_cifar10.py --table                     # only print what is there, and write the page

As the benchmark of pfl-research is set up (benchmarks/image_classification/configs/baseline.yaml): users of 50 images each,
either of all classes alike or with classes drawn from Dirichlet(0.1); 50 users a round, drawn anew; one epoch in batches of
10, SGD with rate 0.1; the mean of the weights; "simple_cnn". But for 100 rounds, where it has 1,500. Cells are kept in
results/pfl_cifar10.jsonl as they come. All train in one thread; pfl is installed once in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from cells import fill, finished, intervals_over, put_tables
from given import cifar10_folder, positive

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from pfl_cifar10_task import EVERY, make_net
from venvs import CACHE, PFL_CIFAR10, PFL_CIFAR10_LOOP, PFL_CIFAR10_USERS, Peer

RESULTS = Path(__file__).parent / "results" / "pfl_cifar10.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "results" / "pfl_cifar10.md"
ROUNDS = 100
ALPHAS = {"iid": 0.0, "dirichlet": 0.1}
#: Method in the table -> strategy.
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg"},
    "fedprox": {"name": "fedprox"},
    "fedntd": {"name": "fedntd"},
}
FEDKD, PFL, LOOP = "fedkd", "pfl 0.6.0", "loop by hand"
PEERS: dict[str, Peer] = {PFL: PFL_CIFAR10, LOOP: PFL_CIFAR10_LOOP}


@dataclass(frozen=True)
class Cell:
    """One run."""

    code: str
    method: str
    split: str
    seed: int
    rounds: int = ROUNDS

    def setting(self) -> dict[str, Any]:
        """All that it is made with but the seed and the data's place."""
        return {
            "code": self.code,
            "split": self.split,
            "rounds": self.rounds,
            "evaluate_every": EVERY,
            "evaluate_clients": 0,
            "participation": 0.05,
            "strategy": METHODS[self.method],
            "train": {"batch_size": 10, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0},
            "data": {"clients": 1000, "partition": "natural_id", "client_test": 0.0},
        }


def images_of(cell: Cell, cifar10: str) -> Path:
    """All images and labels, and whose each is by pfl's own draw: an .npz, made once."""
    path = CACHE / f"pfl_cifar10-{cell.split}-{cell.seed}.npz"
    if path.exists():
        return path
    from fedkd.data import load_source

    source, arrays = load_source("cifar10", path=cifar10), {}
    for split in ("train", "test"):
        inputs, labels = getattr(source, f"{split}_inputs"), getattr(source, f"{split}_labels")
        arrays |= {f"{split}_images": inputs.permute(0, 2, 3, 1).numpy(), f"{split}_labels": labels.numpy()}
    CACHE.mkdir(parents=True, exist_ok=True)
    whole, parts = path.with_name(f"whole-{path.name}"), path.with_name(f"parts-{path.stem}.npy")
    np.savez(whole, **arrays)
    draw = [str(whole), str(ALPHAS[cell.split]), str(cell.seed), str(parts)]
    subprocess.run([*PFL_CIFAR10_USERS.command(CACHE), *draw], check=True)
    groups = np.load(parts)
    held = groups >= 0  # of a Dirichlet draw the last users may lack a class, and then some images are nobody's
    arrays |= {"train_images": arrays["train_images"][held], "train_labels": arrays["train_labels"][held]}
    np.savez(whole, **arrays, train_groups=groups[held])
    parts.unlink()
    return whole.rename(path)


def by_peer(cell: Cell, images: Path) -> list[dict[str, float]]:
    """A line each time it evaluates."""
    command = [*PEERS[cell.code].command(CACHE), str(images), str(cell.rounds), str(cell.seed)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"round"')]


def by_fedkd(cell: Cell, images: Path) -> list[dict[str, float]]:
    """A line each time it evaluates."""
    from fedkd import Experiment, simulate

    lines, began = [], (time.perf_counter(), time.process_time())

    def on_round(row: dict[str, Any]) -> None:
        if row["round"] and "accuracy" in row:
            clocks = {"seconds": time.perf_counter() - began[0], "cpu_seconds": time.process_time() - began[1]}
            lines.append({"round": row["round"], "accuracy": row["accuracy"]} | clocks)

    setting = {key: value for key, value in cell.setting().items() if key not in ("code", "split")}
    setting["data"] |= {"source": str(images), "clients": len(np.unique(np.load(images)["train_groups"]))}
    simulate(Experiment(**setting, nets=make_net, seed=cell.seed), "in-process", on_round=on_round)
    return lines


def run(cell: Cell, cifar10: str) -> dict[str, Any]:
    """One line of the results."""
    import torch

    from fedkd.results.environment import cpu_model

    torch.set_num_threads(1)
    lines = (by_fedkd if cell.code == FEDKD else by_peer)(cell, images_of(cell, cifar10))
    return {
        **asdict(cell),
        "last": lines[-1]["accuracy"],
        "curve": [line["accuracy"] for line in lines],
        "seconds": lines[-1]["seconds"],
        "cpu_seconds": lines[-1]["cpu_seconds"],
        "cpu": cpu_model(),
        "setting": cell.setting(),
    }


def run_those_left(cells: Sequence[Cell], results: Path, cifar10: str, workers: int) -> None:
    """Run the cells that the results lack, on images that are made first."""
    there = finished(cells, results)
    left = [cell for cell in cells if cell not in there]
    for cell in left:
        images_of(cell, cifar10)
    fill(left, partial(run, cifar10=cifar10), results, describe=describe, workers=workers)


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    return f"{line['split']}, {line['method']} by {line['code']}, seed {line['seed']}: {line['last']:.4f}"


def table(found: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A row a method and code, as Markdown; differences to pfl's FedAvg are paired by seed, which draws the clients."""
    from fedkd.results.statistics import percent

    titles = ("split", "method", "code", "seeds", f"after {ROUNDS // 2} rounds", f"after {ROUNDS}", "over pfl's", "CPU-seconds")
    rows = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for split in ALPHAS:
        base = [line for cell, line in found.items() if (cell.code, cell.split) == (PFL, split)]
        for code, method in product((PFL, FEDKD), METHODS):
            if lines := [line for cell, line in found.items() if (cell.code, cell.method, cell.split) == (code, method, split)]:
                middle = percent([line["curve"][len(line["curve"]) // 2 - 1] for line in lines])
                gain = "" if code == PFL else intervals_over(lines, base, "last")
                cost = f"{sum(line['cpu_seconds'] for line in lines) / len(lines):.0f}"
                last = percent([line["last"] for line in lines])
                rows.append(f"| {' | '.join([split, method, code, str(len(lines)), middle, last, gain, cost])} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cifar10", type=cifar10_folder, default="", metavar="DIR", help="train.parquet and test.parquet; default: the hub"
    )
    parser.add_argument("--split", nargs="+", default=[*ALPHAS], choices=[*ALPHAS])
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS], help="pfl's own is FedAvg")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing; print the table and write the page")
    given = parser.parse_args()
    who = [(PFL, "fedavg"), *((FEDKD, method) for method in METHODS)]
    cells = [
        Cell(*each, split, seed) for seed in given.seeds for split in given.split for each in who if each[1] in given.methods
    ]
    if not given.table:
        run_those_left(cells, RESULTS, given.cifar10, given.workers)
    found = finished([Cell(*each, split, seed) for seed in range(5) for split in ALPHAS for each in who], RESULTS)
    print(table(found))
    put_tables(PAGE, {"pfl": table(found)})


if __name__ == "__main__":
    main()
