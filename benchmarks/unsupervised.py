"""The unsupervised family on Fashion-MNIST: five bases alone and with FedX, FedX without each term, FedX-Rep.

    python benchmarks/unsupervised.py              # the cells not yet in results/unsupervised.jsonl, then the tables
    python benchmarks/unsupervised.py --only moco --seeds 0
    python benchmarks/unsupervised.py --table      # only print what is there

10 clients, Dirichlet 0.5, of 5,000 training images drawn by the seed, 500 of them public in the last table; a CNN of 8, 16 and
32 channels with BatchNorm, batches of 64, SGD with momentum 0.9. Accuracy is that of the linear probe on the global encoder's
features (in the last table: the mean over clients' own encoders), fitted on the clients' labelled training images, on all
10,000 test images. "Last" is after the last round; "best" is chosen on the test set, which is optimistic; intervals are 95 %
over seeds, those of a gain over pairs of equal seed. A cell is one run in a one-thread process; two run side by side.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cells import fill, lines_of
from given import positive

if TYPE_CHECKING:
    from fedkd import Experiment

RESULTS = Path(__file__).parent / "results" / "unsupervised.jsonl"
#: A client has a few hundred images: MoCo's queue holds less than two epochs, k-means has a few clusters. FedU's usual mu, 0.4,
#: is for larger nets, whose weights move farther.
OPTIONS: dict[str, dict[str, Any]] = {
    "moco": {"queue": 512},
    "protocl": {"prototypes": [8, 16, 32], "queue": 512},
    "fedu": {"mu": 0.02},
}
BASES = ("simclr", "moco", "byol", "protocl", "fedu")
TERMS = ("local_contrastive", "global_contrastive", "local_relational", "global_relational")
PUBLIC = 500
SETTING: dict[str, Any] = {
    "rounds": 8,
    "evaluate_every": 2,
    "evaluate_clients": 0,
    "nets": "cnn",
    "net_options": {"cnn": {"channels": [8, 16, 32], "hidden": 64, "norm": "batch"}},
    "train": {"epochs": 2, "batch_size": 64, "lr": 0.03},
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


def strategies() -> dict[str, dict[str, Any]]:
    """Every method by its key."""
    alone = {base: {"name": base if base.startswith("fed") else f"fed{base}", **OPTIONS.get(base, {})} for base in BASES}
    with_fedx = {f"{base}+fedx": {"name": "fedx", "base": base, "base_options": OPTIONS.get(base, {})} for base in BASES}
    without = {f"fedx-{term}": {"name": "fedx", "without": [term]} for term in TERMS}
    apart = {"local": {"name": "local_encoders"}, "fedx_rep": {"name": "fedx_rep"}, "fedx_public": {"name": "fedx"}}
    return alone | with_fedx | without | apart


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    seed: int

    def experiment(self) -> Experiment:
        """What is run. Where clients have encoders of their own all of them are evaluated, at the end only."""
        from fedkd import Experiment

        setting = {**SETTING, "strategy": strategies()[self.method], "seed": self.seed}
        if self.method in ("local", "fedx_rep", "fedx_public"):
            setting["data"] = {**SETTING["data"], "public": PUBLIC}
        if self.method in ("local", "fedx_rep"):
            setting |= {"evaluate_clients": 10, "evaluate_every": SETTING["rounds"]}
        return Experiment(**setting)


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results."""
    from fedkd import simulate
    from fedkd.results.environment import cpu_model

    began = time.perf_counter()
    history = simulate(cell.experiment(), "in-process")
    measured = [row for row in history.metrics if "accuracy" in row]
    kept = ("accuracy", "knn_accuracy", "probe_1_percent_accuracy", "probe_10_percent_accuracy")
    kept += ("alignment", "uniformity", "client_cka")
    numbers = {key: [row.get(key) for row in measured] for key in kept}
    sent = {key: sum(row[key] for row in history.metrics) for key in ("bytes_up", "bytes_down")}
    ends = {"rounds": [row["round"] for row in measured], "seconds": time.perf_counter() - began}
    return {**asdict(cell), **numbers, **sent, **ends, "cpu": cpu_model(), "setting": SETTING}


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    return f"{line['method']}, seed {line['seed']}: {line['accuracy'][0]:.4f} -> {line['accuracy'][-1]:.4f}"


def column(found: Sequence[Mapping[str, Any]], method: str, key: str = "accuracy", *, best: bool = False) -> dict[int, float]:
    """By seed, the last or the best value of a method after training."""
    lines = [line for line in found if line["method"] == method and line[key][-1] is not None]
    return {line["seed"]: max(line[key][1:]) if best else line[key][-1] for line in lines}


def gain(after: Mapping[int, float], before: Mapping[int, float]) -> str:
    """The mean difference in points over the seeds that both have, with its paired interval."""
    from fedkd.results.statistics import mean_interval

    differences = [after[seed] - before[seed] for seed in sorted(after.keys() & before.keys())]
    if not differences:
        return ""
    mean, half = mean_interval(differences)
    return f"{100 * mean:+.1f} ± {100 * half:.1f}"


def shown(values: Mapping[int, float]) -> str:
    """A mean over seeds with its interval, as a table has it."""
    from fedkd.results.statistics import percent

    return percent(list(values.values())) if values else ""


def bases_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The ten rows in pairs."""
    from fedkd.results.statistics import size

    first = {line["seed"]: line["accuracy"][0] for line in found if line["method"] == "simclr"}
    lines = [f"Random encoder: {shown(first)}", ""]
    lines += ["| base | last | +FedX | gain | best | +FedX | gain | MB up, base / +FedX |", "|---|---|---|---|---|---|---|---|"]
    for base in BASES:
        cells = [base]
        for best in (False, True):
            alone, both = (column(found, method, best=best) for method in (base, f"{base}+fedx"))
            cells += [shown(alone), shown(both), gain(both, alone)]
        sent = [next((line["bytes_up"] for line in found if line["method"] == m), 0) for m in (base, f"{base}+fedx")]
        lines.append(f"| {' | '.join(cells)} | {' / '.join(map(size, sent))} |")
    return lines


def representation_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What else is known of the ten encoders, after the last round."""
    keys = ("knn_accuracy", "probe_1_percent_accuracy", "probe_10_percent_accuracy")
    plain = ("alignment", "uniformity", "client_cka")
    lines = ["| | kNN | 1 % labels | 10 % labels | alignment | uniformity | client CKA |", "|---|---|---|---|---|---|---|"]
    for method in (name for base in BASES for name in (base, f"{base}+fedx")):
        means = [[*column(found, method, key).values()] for key in plain]
        numbers = [f"{sum(values) / len(values):.2f}" if values else "" for values in means]
        lines.append(f"| {' | '.join([method, *(shown(column(found, method, key)) for key in keys), *numbers])} |")
    return lines


def ablation_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """FedX and FedX without each of its terms."""
    whole = column(found, "simclr+fedx")
    lines = ["| FedX | last | against the whole | best |", "|---|---|---|---|"]
    rows = {"whole": "simclr+fedx"} | {f"without {term.replace('_', ' ')}": f"fedx-{term}" for term in TERMS}
    for title, method in rows.items():
        last, best = column(found, method), column(found, method, best=True)
        lines.append(f"| {title} | {shown(last)} | {gain(last, whole) if last != whole else ''} | {shown(best)} |")
    return lines


def exchange_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Encoders of the clients' own, with and without an exchange of representations, and FedX: accuracy against bytes."""
    from fedkd.results.statistics import size

    rows = {"local": "each for itself", "fedx_rep": "FedX-Rep, own encoders", "fedx_public": "FedX, one encoder"}
    local = column(found, "local")
    lines = ["| | accuracy | against each for itself | sent up | sent down |", "|---|---|---|---|---|"]
    for method, title in rows.items():
        last, line = column(found, method), next((line for line in found if line["method"] == method), None)
        sent = [size(line[key]) if line else "" for key in ("bytes_up", "bytes_down")]
        against = gain(last, local) if method != "local" else ""
        lines.append(f"| {title} | {shown(last)} | {against} | {' | '.join(sent)} |")
    return lines


def all_cells(seeds: Iterable[int], only: Iterable[str]) -> list[Cell]:
    """Every run, seed by seed."""
    return [Cell(method, seed) for seed in seeds for method in strategies() if not only or method in only]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="KEY", help=f"of {', '.join(strategies())}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    if not given.table:
        there = {(line["method"], line["seed"]) for line in lines_of(RESULTS, SETTING)}
        cells = [cell for cell in all_cells(given.seeds, given.only) if (cell.method, cell.seed) not in there]
        fill(cells, run, RESULTS, describe=describe, workers=given.workers)
    found = lines_of(RESULTS, SETTING)
    tables = {
        "Bases": bases_table,
        "Representations": representation_table,
        "Ablations": ablation_table,
        "Representations instead of weights": exchange_table,
    }
    for title, table in tables.items():
        print(f"\n{title}\n\n" + "\n".join(table(found)))


if __name__ == "__main__":
    main()
