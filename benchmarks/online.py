"""Peers that teach each other on Fashion-MNIST: do they, their best and their ensemble do better than alone?

    python benchmarks/online.py                    # the cells not yet in results/online.jsonl, then the tables; about an hour
    python benchmarks/online.py --only dml2 --seeds 0
    python benchmarks/online.py --table            # only print what is there

5,000 training images drawn by the seed, which all peers hold; all 10,000 test images. Nets are a CNN of 8, 16 and 32 channels
with BatchNorm (25,146 parameters), SGD with Nesterov momentum in batches of 64, a cosine rate over the run, no augmentation
but where a row says "own views" (at equal epochs only). A round is an epoch, and the last one counts. "Alone" is DML of weight
0: the same peers, batches and steps, and nothing learned from each other.
Equal epochs: each peer sees the data 20 times. Equal forward passes: as many epochs as 80 passes of one net over the data pay
for, at 1 a peer, and for branches at the share of the net's multiplications that they make; passes of averaged copies count.
A cell is one run in a one-thread process; two run side by side.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cells import fill, lines_of
from given import positive

if TYPE_CHECKING:
    from fedkd import Experiment

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "online.jsonl"
FIGURES = Path(__file__).parent / "results" / "online"
EPOCHS, PASSES = 20, 80
SETTING: dict[str, Any] = {
    "nets": "cnn",
    "net_options": {"cnn": {"channels": [8, 16, 32], "hidden": 64, "norm": "batch"}},
    "train": {
        "epochs": 1,
        "batch_size": 64,
        "optimizer": "sgd",
        "lr": 0.05,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "schedule": "cosine",
    },
    "data": {"source": "fashion_mnist", "train_limit": 5000, "partition": "shared", "client_test": 0.0},
    "evaluate_every": 5,
}


@dataclass(frozen=True)
class Method:
    """A row of the table: a strategy, its peers, and what an epoch of it costs in passes of one net over the data."""

    title: str
    strategy: dict[str, Any]
    clients: int
    passes: float
    views: bool = False


def methods() -> dict[str, Method]:
    """Every row by its key."""
    trunk = trunk_share()
    branched = 3 - 2 * trunk  # passes of a net with three branches
    kdcl = {"name": "kdcl", "target": "min_logit"}
    pcl = {"name": "pcl", "decay": 0.99}  # for some 1,600 steps; the default is for a hundred times as many
    return {
        "alone1": Method("alone", {"name": "dml", "weight": 0.0}, 1, 1),
        "alone2": Method("alone x 2", {"name": "dml", "weight": 0.0}, 2, 2),
        "alone4": Method("alone x 4", {"name": "dml", "weight": 0.0}, 4, 4),
        "dml2": Method("DML x 2", {"name": "dml"}, 2, 2),
        "dml4": Method("DML x 4", {"name": "dml"}, 4, 4),
        "kdcl2": Method("KDCL-MinLogit x 2", {**kdcl, "own_views": False}, 2, 2),
        "one": Method("ONE, 3 branches", {"name": "one"}, 1, branched),
        "okddip4": Method("OKDDip, 3 peers and a leader", {"name": "okddip"}, 4, 4),
        "pcl": Method("PCL, 3 branches, decay 0.99", {**pcl, "own_views": False}, 1, 2 * branched),
        "views2": Method("alone x 2, own views", {**kdcl, "weight": 0.0}, 2, 2, views=True),
        "kdcl2_views": Method("KDCL-MinLogit x 2, own views", kdcl, 2, 2, views=True),
        "pcl_views": Method("PCL, 3 branches, decay 0.99, own views", pcl, 1, 6, views=True),
    }


@cache
def trunk_share() -> float:
    """The share of a net's multiplications that lies in the trunk which branches share."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from fedkd.nets import Encoder, build_net

    net = build_net("cnn", shape=(1, 28, 28), classes=10, options=SETTING["net_options"]["cnn"]).eval()
    assert isinstance(net.encoder, Encoder)
    trunk, images = net.encoder.cut()[0], torch.zeros(1, 1, 28, 28)
    with FlopCounterMode(display=False) as whole:
        net(images)
    with FlopCounterMode(display=False) as shared:
        trunk(images)
    return float(shared.get_total_flops() / whole.get_total_flops())


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    epochs: int
    seed: int

    def experiment(self) -> Experiment:
        """What is run."""
        from fedkd import Experiment

        method = methods()[self.method]
        data = {**SETTING["data"], "clients": method.clients}
        return Experiment(strategy=method.strategy, rounds=self.epochs, seed=self.seed, **{**SETTING, "data": data})


def equal_passes(method: Method) -> int:
    """How many epochs the budget of passes pays for."""
    return round(PASSES / method.passes)


def all_cells(seeds: Iterable[int], only: Iterable[str]) -> list[Cell]:
    """Every run, seed by seed; where both tables ask for the same one, it is one."""
    cells = [
        Cell(key, epochs, seed)
        for seed in seeds
        for key, method in methods().items()
        if not only or key in only
        for epochs in ([EPOCHS] if method.views else [EPOCHS, equal_passes(method)])
    ]
    return list(dict.fromkeys(cells))


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results; the figure of seed 0 is kept."""
    from fedkd import simulate
    from fedkd.results.environment import cpu_model

    began, out = time.perf_counter(), ROOT / "runs" / "online" / f"{cell.method}-{cell.epochs}-{cell.seed}"
    shutil.rmtree(out, ignore_errors=True)
    last = simulate(cell.experiment(), "in-process", out=out).metrics[-1]
    if cell.seed == 0 and cell.epochs == EPOCHS and cell.method != "alone1" and (out / "peers.png").exists():
        FIGURES.mkdir(exist_ok=True)
        shutil.copy(out / "peers.png", FIGURES / f"{cell.method}.png")
    keys = ("accuracy", "peer_accuracies", "mean_peer_accuracy", "best_peer_accuracy", "ensemble_accuracy", "agreement")
    numbers = {key: last[key] for key in keys if key in last}
    return {**asdict(cell), **numbers, "seconds": time.perf_counter() - began, "cpu": cpu_model(), "setting": SETTING}


def finished() -> dict[Cell, dict[str, Any]]:
    """The lines that are there, of this very setting."""
    return {Cell(line["method"], line["epochs"], line["seed"]): line for line in lines_of(RESULTS, SETTING)}


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    return f"{line['method']}, {line['epochs']} epochs, seed {line['seed']}: {line['accuracy']:.4f}"


def table(found: Mapping[Cell, Mapping[str, Any]], epochs_of: Mapping[str, int]) -> str:
    """A table as Markdown: 95 % intervals over seeds."""
    from fedkd.results.statistics import percent

    lines = ["| | epochs | mean peer | best peer | ensemble | agreement |", "|---|---|---|---|---|---|"]
    for key, method in ((key, method) for key, method in methods().items() if key in epochs_of):
        rows = [line for cell, line in found.items() if (cell.method, cell.epochs) == (key, epochs_of[key])]
        columns = ("mean_peer_accuracy", "best_peer_accuracy", "ensemble_accuracy", "agreement")
        if rows and "mean_peer_accuracy" not in rows[0]:
            columns = ("accuracy", "accuracy", "accuracy", "agreement")  # of one peer
        values = [[row[column] for row in rows if column in row] for column in columns]
        lines.append(f"| {method.title} | {epochs_of[key]} | " + " | ".join(percent(v) if v else "" for v in values) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="KEY", help="keys of rows, such as dml2")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    if not given.table:
        there = finished()
        cells = [cell for cell in all_cells(given.seeds, given.only) if cell not in there]
        fill(cells, run, RESULTS, describe=describe, workers=given.workers)
    print(f"\nEqual epochs\n\n{table(finished(), dict.fromkeys(methods(), EPOCHS))}")
    print(
        f"\nEqual forward passes\n\n{table(finished(), {key: equal_passes(m) for key, m in methods().items() if not m.views})}"
    )


if __name__ == "__main__":
    main()
