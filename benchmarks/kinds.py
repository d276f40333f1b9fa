"""Tables, signals and text: four small tables of what federated distillation does on them.

    python benchmarks/kinds.py                        # the cells not yet in results/kinds.jsonl, the tables; ten minutes
    python benchmarks/kinds.py --only tabular --seeds 0
    python benchmarks/kinds.py --table                # only print what is there

A cell is one run in a one-thread process; two run side by side. The last round counts.

tabular: scikit-learn's breast cancer, 456 rows of 30 features for training and 113 for tests; 100 rows are public, ten clients
    share the rest by a Dirichlet draw (alpha 0.5); an MLP with one hidden layer of 64.
series: seglearn's shoulder exercises, 2 s of a smartwatch's six values; the ten people are the clients, every other one has a
    cnn1d and the others an MLP; 300 windows, of all people, are public.
text: which of eight languages is this word, as characters, 5,000 words at ten clients (alpha 0.5) with a transformer or a
    cnn1d each, and 1,000 public ones; and DML between one of each, which hold the same 5,000.
vectors: encoders that see no labels, on breast cancer's features with some of them replaced (`corrupt`), four clients
    (alpha 0.5); accuracy of a linear probe on the frozen encoder, and that of the encoder before any training.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cells import fill, lines_of
from given import positive

if TYPE_CHECKING:
    from fedkd import Experiment

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "kinds.jsonl"
FIGURES = Path(__file__).parent / "results" / "kinds"
TEXT_NETS = {"transformer": {"width": 32, "depth": 2, "heads": 4}, "cnn1d": {"channels": [32, 64], "kernel": 3, "hidden": 64}}
SHARED = {"clients": 2, "partition": "shared", "public": 0}
#: What is equal in a table, and its rows: strategy, and what is different in that row.
TABLES: dict[str, tuple[dict[str, Any], dict[str, tuple[dict[str, Any], dict[str, Any]]]]] = {
    "tabular": (
        {
            "rounds": 20,
            "nets": "mlp",
            "net_options": {"mlp": {"hidden": [64]}},
            "train": {"epochs": 2, "batch_size": 16, "lr": 0.05},
            "data": {"source": "breast_cancer", "clients": 10, "alpha": 0.5, "min_partition_size": 10, "public": 100},
        },
        {
            "FedAvg": ({"name": "fedavg"}, {}),
            "FedMD": ({"name": "fedmd"}, {}),
            "DS-FL": ({"name": "dsfl"}, {}),
            "FD": ({"name": "fd"}, {}),
            "local": ({"name": "local"}, {}),
            "centralised": ({"name": "centralised"}, {}),
        },
    ),
    "series": (
        {
            "rounds": 15,
            "nets": {"cnn1d": 0.5, "mlp": 0.5},
            "net_options": {"cnn1d": {"channels": [16, 32], "hidden": 64}, "mlp": {"hidden": [64]}},
            "train": {"epochs": 2, "batch_size": 32, "optimizer": "adam", "lr": 0.001},
            "data": {"source": "shoulder_exercises", "clients": 10, "partition": "natural_id", "public": 300},
        },
        {
            "FedMD": ({"name": "fedmd"}, {}),
            "DS-FL": ({"name": "dsfl"}, {}),
            "FD": ({"name": "fd"}, {}),
            "FedProto": ({"name": "fedproto"}, {}),
            "local": ({"name": "local"}, {}),
        },
    ),
    "text": (
        {
            "rounds": 10,
            "nets": {"transformer": 0.5, "cnn1d": 0.5},
            "net_options": TEXT_NETS,
            "train": {"epochs": 2, "batch_size": 32, "optimizer": "adam", "lr": 0.002},
            "data": {"source": "word_languages", "clients": 10, "alpha": 0.5, "train_limit": 6000, "public": 1000},
        },
        {
            "FedMD": ({"name": "fedmd"}, {}),
            "local": ({"name": "local"}, {}),
            "DML of both nets": ({"name": "dml"}, {"data": {**SHARED, "train_limit": 5000}}),
            "both nets alone": ({"name": "dml", "weight": 0.0}, {"data": {**SHARED, "train_limit": 5000}}),
        },
    ),
    "vectors": (
        {
            "rounds": 10,
            "nets": "mlp",
            "net_options": {"mlp": {"hidden": [64, 32]}},
            "train": {"epochs": 4, "batch_size": 32, "lr": 0.05},
            "data": {"source": "breast_cancer", "clients": 4, "alpha": 0.5, "min_partition_size": 40, "views": "corrupt"},
        },
        {
            "FedX": ({"name": "fedx"}, {}),
            "FedSimCLR": ({"name": "fedsimclr"}, {}),
            "FedBYOL": ({"name": "fedbyol"}, {}),
        },
    ),
}
#: What a table shows of the last row: key, and title.
COLUMNS = {
    "tabular": {"accuracy": "test set", "client_accuracy": "clients' own tests"},
    "series": {"accuracy": "test set", "client_accuracy": "clients' own tests"},
    "text": {"accuracy": "test set", "client_accuracy": "clients' own tests"},
    "vectors": {"probe_accuracy": "linear probe", "probe_before": "before training", "knn_accuracy": "kNN"},
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    table: str
    method: str
    seed: int

    @property
    def out(self) -> Path:
        """Where its run is written."""
        return ROOT / "runs" / "kinds" / f"{self.table}-{self.method.replace(' ', '_')}-{self.seed}"

    def experiment(self) -> Experiment:
        """What is run."""
        from fedkd import Experiment

        shared, rows = TABLES[self.table]
        strategy, changes = rows[self.method]
        data = {**shared["data"], **changes.get("data", {})}
        if data.get("partition", "dirichlet") != "dirichlet":
            data = {key: value for key, value in data.items() if key not in ("alpha", "min_partition_size")}
        return Experiment(strategy=strategy, seed=self.seed, **{**shared, **changes, "data": data})


def all_cells(seeds: Iterable[int], only: Iterable[str]) -> list[Cell]:
    """Every run, seed by seed."""
    return [
        Cell(name, method, seed)
        for seed in seeds
        for name, (_, rows) in TABLES.items()
        if not only or name in only
        for method in rows
    ]


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results."""
    from fedkd import simulate
    from fedkd.results.environment import cpu_model

    began = time.perf_counter()
    shutil.rmtree(cell.out, ignore_errors=True)
    metrics = simulate(cell.experiment(), "in-process", out=cell.out).metrics
    last = {**metrics[-1], "probe_before": metrics[0].get("probe_accuracy")}
    sent = {key: sum(row.get(key, 0) for row in metrics) for key in ("bytes_up", "bytes_down")}
    numbers = {key: last[key] for key in COLUMNS[cell.table] if last.get(key) is not None}
    return {
        **asdict(cell),
        **numbers,
        **sent,
        "seconds": time.perf_counter() - began,
        "cpu": cpu_model(),
        "setting": setting(cell),
    }


def setting(cell: Cell) -> dict[str, Any]:
    """What a line is made with: another setting, another line."""
    shared, rows = TABLES[cell.table]
    return {"shared": shared, "row": list(rows[cell.method])}


def finished(cells: Iterable[Cell]) -> dict[Cell, dict[str, Any]]:
    """The lines that are there, of these very settings."""
    found = {}
    for cell in cells:
        lines = [line for line in lines_of(RESULTS, setting(cell)) if line["method"] == cell.method]
        if mine := [line for line in lines if (line["table"], line["seed"]) == (cell.table, cell.seed)]:
            found[cell] = mine[-1]
    return found


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    key = next(iter(COLUMNS[line["table"]]))
    return f"{line['table']}, {line['method']}, seed {line['seed']}: {line[key]:.4f}"


def table(name: str, found: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A table as Markdown: 95 % intervals over seeds."""
    from fedkd.results.statistics import percent

    columns = COLUMNS[name]
    head = ["", *(f"{title} %" for title in columns.values()), "kB up and down, all clients and rounds"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method in TABLES[name][1]:
        rows = [line for cell, line in found.items() if (cell.table, cell.method) == (name, method)]
        if rows:
            values = [[row[key] for row in rows if key in row] for key in columns]
            kilobytes = sum(row["bytes_up"] + row["bytes_down"] for row in rows) / len(rows) / 1000
            lines.append(f"| {method} | " + " | ".join(percent(v) if v else "" for v in values) + f" | {kilobytes:,.0f} |")
    return "\n".join(lines)


def draw(cells: Iterable[Cell]) -> None:
    """A figure for each table, of all its runs that are at hand."""
    FIGURES.mkdir(exist_ok=True)
    cells = list(cells)
    for name in TABLES:
        runs = [str(cell.out) for cell in cells if cell.table == name and (cell.out / "metrics.jsonl").exists()]
        if runs:
            command = [Path(sys.executable).with_name("fedkd"), "plot", *runs, "--out", FIGURES / f"{name}.png"]
            subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="TABLE", choices=[*TABLES], help="tables, such as text")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    cells = all_cells(given.seeds, given.only)
    if not given.table:
        there = finished(cells)
        fill([cell for cell in cells if cell not in there], run, RESULTS, describe=describe, workers=given.workers)
        draw(cells)
    for name in given.only or TABLES:
        print(f"\n{name}\n\n{table(name, finished(cells))}")


if __name__ == "__main__":
    main()
