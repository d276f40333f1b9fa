"""Where does FedX gain over its base? Rounds, local epochs, and one thing changed at a time, as the plan says.

    python benchmarks/fedx_budget.py --step budget         # the cells not yet in results/fedx_budget.jsonl
    python benchmarks/fedx_budget.py --step changes --at 20 10 --only plain "start at half"
    python benchmarks/fedx_budget.py --step places --cifar10 DIR               # DIR holds train.parquet and test.parquet
    python benchmarks/fedx_budget.py --step places --place "CIFAR-10, ResNet-18" --only "views of FedX" --cifar10 DIR
    python benchmarks/fedx_budget.py --step official --cifar10 DIR --code COPY # of github.com/Sungwon-Han/FEDX
    python benchmarks/fedx_budget.py --page                # only print what is there, and write docs/results/fedx.md

The plan, written before the runs, with its stopping rule: plans/fedx_budget.md. A cell is one run of SimCLR, of FedX on it, or
of FedX without its global contrastive term, in a one-thread process; two run side by side. The official code runs in an
environment of its own, which is made once (fedx_official.py; peers/with_fedx.py says what is changed in it).
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cells import fill, finished
from fedx_page import Pair, explain, table, write_page
from given import cifar10_folder, positive

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
    "ramp, average": {"ramp": 1.0, "teacher_decay": 0.9},
    "ramp, temperature 0.2": {"ramp": 1.0},
}
#: What such a change comes on top of, for SimCLR too; else nothing.
ON_TOP_OF = dict.fromkeys(FEDX_CHANGES, "plain") | {"ramp, temperature 0.2": "temperature 0.2"}
#: Data and net; the first is that of the other steps.
RESNET: dict[str, Any] = {"nets": "resnet18", "net_options": {"resnet18": {"width": 16}}}
PLACES: dict[str, dict[str, Any]] = {
    "Fashion-MNIST, CNN": {},
    "Fashion-MNIST, ResNet-18": RESNET,
    "CIFAR-10, CNN": {"data": {"source": "cifar10"}},
    "CIFAR-10, ResNet-18": {**RESNET, "data": {"source": "cifar10"}},
}
FASHION, _, CIFAR10, _ = PLACES
#: By the official code, which has no SimCLR alone: what is left of its loss without FedX's terms.
OFFICIAL = {"official_simclr": "simclr", "official": "fedx"}
STEPS = ("budget", "changes", "places", "official")
CHANGES = ("plain", *SHARED_CHANGES, *FEDX_CHANGES)
#: The seeds by which a setting was chosen, and those drawn afterwards to judge it by: the plan keeps them apart.
SEEDS, FRESH_SEEDS = range(5), range(5, 10)


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    change: str
    rounds: int
    epochs: int
    seed: int
    place: str = FASHION

    def setting(self) -> dict[str, Any]:
        """All that the run is made with but the seed: another setting, another line."""
        shared = SHARED_CHANGES.get(ON_TOP_OF.get(self.change, self.change), {})
        own = FEDX_CHANGES.get(self.change, {}) if self.method != "simclr" else {}
        own = {key: 1 + self.rounds // 2 if value == "half" else value for key, value in own.items()}
        place, strategy = PLACES[self.place], METHODS[OFFICIAL.get(self.method, self.method)]
        return {
            **SETTING,
            **place,
            "rounds": self.rounds,
            "evaluate_every": max(1, self.rounds // 8),
            "train": {**SETTING["train"], "epochs": self.epochs, **shared.get("train", {})},
            "data": {**SETTING["data"], **place.get("data", {}), **shared.get("data", {})},
            "strategy": {**strategy, **shared.get("strategy", {}), **own},
        }

    def experiment(self, cifar10: str = "") -> Experiment:
        """What is run, with CIFAR-10 read from that folder."""
        from fedkd import Experiment

        setting = self.setting()
        if setting["data"]["source"] == "cifar10":
            setting["data"]["path"] = cifar10
        return Experiment(**setting, seed=self.seed)


def run_official(cell: Cell, cifar10: str, code: str) -> dict[str, Any]:
    """One line of the results, of the official code on the very images and parts."""
    from fedx_official import train

    from fedkd.results.environment import cpu_model

    began = time.perf_counter()
    accuracies = train(cell.experiment(cifar10), base_alone=cell.method == "official_simclr", code=code)
    commit = subprocess.run(["git", "-C", code, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return {
        **asdict(cell),
        "last": [*accuracies.values()][-1],
        "curves": {"round": [*accuracies], "accuracy": [*accuracies.values()]},
        "commit": commit.stdout.strip(),
        "seconds": time.perf_counter() - began,
        "cpu": cpu_model(),
        "setting": cell.setting(),
    }


def run(cell: Cell, cifar10: str = "", code: str = "") -> dict[str, Any]:
    """One line of the results: the probe over the rounds, and the parts of the loss."""
    from fedkd import simulate
    from fedkd.results.environment import cpu_model

    if cell.method in OFFICIAL:
        return run_official(cell, cifar10, code)
    began = time.perf_counter()
    rows = simulate(cell.experiment(cifar10), "in-process").metrics
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
        wanted = [(method, "plain", FASHION) for method in METHODS]
    elif step == "places":
        wanted = [
            (method, change, place)
            for place in PLACES
            for change in ("plain", "views of FedX")
            for method in ("simclr", "fedx")
        ]
    elif step == "official":
        wanted = [(method, "views of FedX", CIFAR10) for method in ("simclr", "fedx", *OFFICIAL)]
    else:
        methods = {change: ("fedx",) if change in FEDX_CHANGES else tuple(METHODS) for change in only}
        wanted = [(method, change, FASHION) for change in only for method in methods[change]]
    cells = [
        Cell(method, change, *budget, seed, place) for seed in seeds for budget in budgets for method, change, place in wanted
    ]
    return sorted(cells, key=lambda cell: (cell.rounds * cell.epochs, "ResNet" in cell.place))


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    where = f"{line['place']}, {line['rounds']} x {line['epochs']}, {line['change']}, {line['method']}, seed {line['seed']}"
    return f"{where}: {line['last']:.4f}"


def pairs(found: Mapping[Cell, Mapping[str, Any]]) -> Iterator[Pair]:
    """Each setting that was run with FedX and without it, the seeds that both have; fresh seeds are a setting of their own."""
    by: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell, line in found.items():
        fresh = cell.seed in FRESH_SEEDS
        by.setdefault((cell.place, cell.rounds, cell.epochs, fresh, cell.change, cell.method), []).append(line)
    for place, (rounds, epochs), change, fresh in product(PLACES, BUDGETS, CHANGES, (False, True)):
        here = partial(lambda *key: by.get(key, []), place, rounds, epochs, fresh)
        shown = f"{change}, seeds {FRESH_SEEDS[0]} to {FRESH_SEEDS[-1]}" if fresh else change
        for method, base, what in (
            ("fedx", "simclr", shown),
            ("without", "simclr", f"{shown}, without the global contrastive term"),
            ("official", "official_simclr", f"{shown}, official code"),
        ):
            over = {line["seed"]: line for line in here(ON_TOP_OF.get(change, change), base)}
            if mine := [line for line in here(change, method) if line["seed"] in over]:
                yield Pair(place, rounds, epochs, what, mine, [over[line["seed"]] for line in mine])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", choices=STEPS, default="budget")
    parser.add_argument("--only", nargs="+", default=[*CHANGES], metavar="CHANGE", choices=[*CHANGES])
    every_method = [*METHODS, *OFFICIAL]
    parser.add_argument("--methods", nargs="+", default=every_method, metavar="METHOD", choices=every_method)
    parser.add_argument("--place", nargs="+", default=[*PLACES], metavar="PLACE", choices=[*PLACES], help="data and net")
    parser.add_argument("--at", nargs=2, type=positive, metavar=("ROUNDS", "EPOCHS"), help="default: of budget all, else 20 2")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument(
        "--cifar10", type=cifar10_folder, default="", metavar="DIR", help="train.parquet and test.parquet; default: the hub"
    )
    parser.add_argument("--code", default="", metavar="COPY", help="of the official code; needed by step official")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument(
        "--page", action="store_true", help="run nothing; write the table and the figure of docs/results/fedx.md"
    )
    given = parser.parse_args()
    if given.at and tuple(given.at) not in BUDGETS:
        parser.error(
            f"--at {given.at[0]} {given.at[1]}: no budget of the plan: choose of {', '.join(f'{a} {b}' for a, b in BUDGETS)}"
        )
    if given.step == "official" and not (given.table or given.page) and not (Path(given.code) / "losses.py").is_file():
        parser.error(f"--code {given.code or '(nothing)'}: no losses.py there: give a copy of github.com/Sungwon-Han/FEDX")
    if not (given.table or given.page):
        budgets = (tuple(given.at),) if given.at else BUDGETS if given.step == "budget" else ((20, 2),)
        cells = [
            cell
            for cell in cells_of(given.step, given.seeds, given.only, budgets)
            if cell.method in given.methods and cell.place in given.place and cell.change in given.only
        ]
        if not cells:
            parser.error(f"--step {given.step}: no cell of it is of these methods, places and changes: leave one of them out")
        there, do = finished(cells, RESULTS), partial(run, cifar10=given.cifar10, code=given.code)
        fill([cell for cell in cells if cell not in there], do, RESULTS, describe=describe, workers=given.workers)
    seeds = [*SEEDS, *FRESH_SEEDS]
    every = {cell for step in STEPS for cell in cells_of(step, seeds, [*CHANGES], BUDGETS)}
    found = [*pairs(finished(sorted(every, key=str), RESULTS))]
    print(f"{table(found)}\n\n{explain(found)}")
    if given.page:
        write_page(found)


if __name__ == "__main__":
    main()
