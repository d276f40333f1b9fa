"""Where does FedX gain over its base? Rounds, local epochs, and one thing changed at a time, as the plan says.

    python benchmarks/fedx_budget.py --step budget         # the cells not yet in results/fedx_budget.jsonl
    python benchmarks/fedx_budget.py --step changes --at 20 10 --only plain "start at half"
    python benchmarks/fedx_budget.py --table               # only print what is there

The plan, written before the runs, with its stopping rule: plans/fedx_budget.md. A cell is one run of SimCLR, of FedX on it, or
of FedX without its global contrastive term, in a one-thread process; two run side by side.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cells import fill, finished, intervals_over

if TYPE_CHECKING:
    from fedkd import Experiment

RESULTS = Path(__file__).parent / "results" / "fedx_budget.jsonl"
SETTING: dict[str, Any] = {
    "evaluate_clients": 0,
    "nets": "cnn",
    "net_options": {"cnn": {"channels": [8, 16, 32], "hidden": 64, "norm": "batch"}},
    "train": {"batch_size": 64, "lr": 0.03},
    "data": {
        "source": "fashion_mnist",
        "train_limit": 5000,
        "clients": 10,
        "partition": "dirichlet",
        "alpha": 0.5,
        "self_balancing": True,
        "views": "simclr",
    },
}
METHODS: dict[str, dict[str, Any]] = {
    "simclr": {"name": "fedsimclr"},
    "fedx": {"name": "fedx"},
    "without": {"name": "fedx", "without": ["global_contrastive"]},
}
#: Rounds and local epochs.
BUDGETS = ((8, 2), (20, 2), (50, 2), (8, 10), (20, 10), (40, 10))
#: What is changed, one thing at a time: keys of [train], [data] or [strategy].
SHARED_CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "rate 0.01": {"train": {"lr": 0.01}},
    "rate 0.1": {"train": {"lr": 0.1}},
    "batches of 32": {"train": {"batch_size": 32}},
    "batches of 256": {"train": {"batch_size": 256}},
    "temperature 0.2": {"strategy": {"temperature": 0.2}},
    "temperature 0.5": {"strategy": {"temperature": 0.5}},
    "views of FedX": {"data": {"views": "fedx"}},
}
#: Those that SimCLR has not, in shares of the rounds where the value is a string.
FEDX_CHANGES: dict[str, dict[str, Any]] = {
    "start at half": {"start_round": "half"},
    "ramp": {"ramp": 1.0},
    "global weight 0.3": {"global_weight": 0.3},
    "global weight 0.1": {"global_weight": 0.1},
    "average teaches": {"teacher_decay": 0.9},
    "start at half, average": {"start_round": "half", "teacher_decay": 0.9},
}
COSTS = ("seconds", "bytes")
CHANGES = ("plain", *SHARED_CHANGES, *FEDX_CHANGES)


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    change: str
    rounds: int
    epochs: int
    seed: int

    def setting(self) -> dict[str, Any]:
        """All that the run is made with but the seed: another setting, another line."""
        shared = SHARED_CHANGES.get(self.change, {})
        own = FEDX_CHANGES.get(self.change, {}) if self.method != "simclr" else {}
        own = {key: 1 + self.rounds // 2 if value == "half" else value for key, value in own.items()}
        return {
            **SETTING,
            "rounds": self.rounds,
            "evaluate_every": max(1, self.rounds // 8),
            "train": {**SETTING["train"], "epochs": self.epochs, **shared.get("train", {})},
            "data": {**SETTING["data"], **shared.get("data", {})},
            "strategy": {**METHODS[self.method], **shared.get("strategy", {}), **own},
        }

    def experiment(self) -> Experiment:
        """What is run."""
        from fedkd import Experiment

        return Experiment(**self.setting(), seed=self.seed)


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results: the probe over the rounds, and the parts of the loss."""
    from fedkd import simulate
    from fedkd.results.environment import cpu_model

    began = time.perf_counter()
    rows = simulate(cell.experiment(), "in-process").metrics
    measured = [row for row in rows if "accuracy" in row]
    curves = {key: [row.get(key) for row in measured] for key in ("round", "accuracy", "alignment", "uniformity", "client_cka")}
    parts = [key for key in rows[-1] if key.endswith(("_contrastive", "_relational"))]
    return {
        **asdict(cell),
        "last": measured[-1]["accuracy"],
        "curves": curves,
        "parts": {key: [row.get(key) for row in rows[1:]] for key in parts},
        "bytes": sum(row["bytes_up"] + row["bytes_down"] for row in rows),
        "seconds": time.perf_counter() - began,
        "cpu": cpu_model(),
        "setting": cell.setting(),
    }


def cells_of(step: str, seeds: list[int], only: list[str], budgets: tuple[tuple[int, int], ...]) -> list[Cell]:
    """The runs of a step of the plan, the cheapest first."""
    if step == "budget":
        wanted = [(method, "plain", *budget) for budget in budgets for method in METHODS]
    else:
        wanted = [
            (method, change, *budget)
            for budget in budgets
            for change in only
            for method in (("fedx",) if change in FEDX_CHANGES else ("simclr", "fedx"))
        ]
    cells = [Cell(*each, seed) for seed in seeds for each in wanted]
    return sorted(cells, key=lambda cell: cell.rounds * cell.epochs)


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    where = f"{line['rounds']} x {line['epochs']}, {line['change']}, {line['method']}, seed {line['seed']}"
    return f"{where}: {line['last']:.4f}"


def row_of(lines: list[Mapping[str, Any]], base: list[Mapping[str, Any]]) -> list[str]:
    """How many seeds, both accuracies, the gain paired by seed, and what it costs in time and bytes."""
    from fedkd.results.statistics import percent

    accuracies = [percent([line["last"] for line in some]) for some in (base, lines)]
    ratios = [sum(line[key] for line in lines) / len(lines) / (sum(b[key] for b in base) / len(base)) for key in COSTS]
    return [str(len(lines)), *accuracies, intervals_over(lines, base, "last"), *(f"{ratio:.1f} x" for ratio in ratios)]


def table(found: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A row a setting, as Markdown: SimCLR, FedX, the gain."""
    by: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell, line in found.items():
        by.setdefault((cell.rounds, cell.epochs, cell.change, cell.method), []).append(line)
    lines = ["| rounds x epochs | changed | seeds | SimCLR | FedX | gain | time | bytes |", "|---" * 8 + "|"]
    for rounds, epochs in BUDGETS:
        for change in CHANGES:
            base = by.get((rounds, epochs, "plain" if change in FEDX_CHANGES else change, "simclr"), [])
            for method, what in (("fedx", change), ("without", "without the global contrastive term")):
                if base and (mine := by.get((rounds, epochs, change, method), [])):
                    lines.append(f"| {' | '.join([f'{rounds} x {epochs}', what, *row_of(mine, base)])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", choices=["budget", "changes"], default="budget")
    parser.add_argument("--only", nargs="+", default=[*CHANGES], metavar="CHANGE", choices=[*CHANGES])
    parser.add_argument("--at", nargs=2, type=int, metavar=("ROUNDS", "EPOCHS"), help="default: all budgets; of changes, 20 2")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    if not given.table:
        budgets = (tuple(given.at),) if given.at else BUDGETS if given.step == "budget" else ((20, 2),)
        cells = cells_of(given.step, given.seeds, given.only, budgets)
        there = finished(cells, RESULTS)
        fill([cell for cell in cells if cell not in there], run, RESULTS, describe=describe, workers=given.workers)
    every = {cell for step in ("budget", "changes") for cell in cells_of(step, [*range(5)], [*CHANGES], BUDGETS)}
    print(table(finished(sorted(every, key=str), RESULTS)))


if __name__ == "__main__":
    main()
