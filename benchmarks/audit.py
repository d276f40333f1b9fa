"""What uploads on public samples tell of their clients' data: `fedkd audit` on runs of FedMD and DS-FL, with several seeds.

    python benchmarks/audit.py              # the cells that are not in results/audit.jsonl yet, then the tables
    python benchmarks/audit.py --seeds 0    # fewer seeds; --only fedmd-iid, ...; --workers 1
    python benchmarks/audit.py --table      # only print what is there

Five clients, nets "mlp", 300 public samples without labels, 3 rounds of 5 epochs; digits (1 138 private samples) and
Fashion-MNIST (2 000). A cell is one run and its audit with 16 shadow runs, 80 shadow clients, of which 13 trained on a sample.
Figures are means over seeds with the 95 % interval of Student's t. A cell takes one to two minutes on one core.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cells import fill, lines_of
from given import positive

RESULTS = Path(__file__).parent / "results" / "audit.jsonl"
SHADOW_RUNS = 16
SETTING: dict[str, Any] = {
    "rounds": 3,
    "nets": "mlp",
    "train": {"epochs": 5, "batch_size": 32, "lr": 0.05, "momentum": 0.9},
    "data": {"clients": 5, "public": 300},
    "record": {"uploads": True},
    "evaluate_every": 3,
}
IID, SKEWED = {"partition": "iid"}, {"partition": "dirichlet", "alpha": 0.5, "self_balancing": True}
#: Name -> what differs.
RUNS: dict[str, dict[str, Any]] = {
    "fedmd-iid": {"strategy": "fedmd", "data": IID},
    "fedmd-skewed": {"strategy": "fedmd", "data": SKEWED},
    "dsfl-iid": {"strategy": "dsfl", "data": IID},
    "dsfl-skewed": {"strategy": "dsfl", "data": SKEWED},
    "dsfl-iid-noise": {"strategy": "dsfl", "data": IID, "privacy": {"noise_multiplier": 0.1, "clip": 20.0}},
}
SOURCES = {"digits": {"source": "digits"}, "fashion_mnist": {"source": "fashion_mnist", "train_limit": 2300}}
WHOLE_SETTING = {**SETTING, "runs": RUNS, "sources": SOURCES, "shadow_runs": SHADOW_RUNS}


@dataclass(frozen=True)
class Cell:
    """One run and its audit."""

    source: str
    run: str
    seed: int


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results."""
    from fedkd import Experiment, simulate
    from fedkd.engine.audit.audit import audit
    from fedkd.results.environment import cpu_model

    began, differs = time.perf_counter(), RUNS[cell.run]
    data = SETTING["data"] | SOURCES[cell.source] | differs["data"]
    experiment = Experiment(**SETTING | differs | {"data": data, "seed": cell.seed})
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        history = simulate(experiment, out=place)
        found = audit(place, shadow_runs=SHADOW_RUNS).to_json()
    facts = {"accuracy": history.metrics[-1]["accuracy"], "audit": found, "seconds": time.perf_counter() - began}
    return {**asdict(cell), **facts, "cpu": cpu_model(), "setting": WHOLE_SETTING}


def describe(line: dict[str, Any]) -> str:
    """What came out of a cell."""
    auc = line["audit"]["membership"]["as uploaded"]["auc"]["value"]
    return f"{line['source']}, {line['run']}, seed {line['seed']}: AUC {auc:.3f}"


def over_seeds(lines: Sequence[dict[str, Any]], figure: Callable[[dict[str, Any]], float], form: str = "{:.3f}") -> str:
    """Mean and half the 95 % interval of a figure of each line."""
    from fedkd.results.statistics import mean_interval

    mean, half = mean_interval([figure(line) for line in lines])
    return f"{form.format(float(mean))} ± {form.format(float(half))}"


def tables(lines: Sequence[dict[str, Any]]) -> str:
    """For each data set and run: membership and label shares, a row for each thing that the attacker is given."""
    text = []
    for source in SOURCES:
        for name in RUNS:
            mine = [line for line in lines if (line["source"], line["run"]) == (source, name)]
            if mine:
                text += [f"\n{source}, {name}, {len(mine)} seeds, accuracy {over_seeds(mine, lambda line: line['accuracy'])}\n"]
                text += [*_membership(mine), "", *_label_shares(mine)]
    return "\n".join(text)


def _membership(lines: Sequence[dict[str, Any]]) -> list[str]:
    rows = ["| the attacker is given | AUC | found at 0.1 % false, % | at 1 % false, % |", "|---|---|---|---|"]
    for given in lines[0]["audit"]["membership"]:

        def at(rate: str, given: str = given) -> Callable[[dict[str, Any]], float]:
            return lambda line: 100 * line["audit"]["membership"][given]["true_positives_at"][rate]["value"]

        auc = over_seeds(lines, lambda line, given=given: line["audit"]["membership"][given]["auc"]["value"])  # type: ignore[misc]
        rows.append(
            f"| {given} | {auc} | {over_seeds(lines, at('0.001'), '{:.1f}')} | {over_seeds(lines, at('0.01'), '{:.1f}')} |"
        )
    sizes = lines[0]["audit"]["membership"]["as uploaded"]
    return [*rows, f"\n{sizes['members']} members and {sizes['non_members']} others a seed"]


def _label_shares(lines: Sequence[dict[str, Any]]) -> list[str]:
    rows = ["| label shares guessed from | total variation | KL, nats |", "|---|---|---|"]
    names = [(name, name, "") for name in lines[0]["audit"]["label_shares"]]
    names += [("what all hold together", "as uploaded", "prior_"), ("all labels alike", "as uploaded", "uniform_")]
    for shown, name, prefix in names:
        cells = [
            over_seeds(lines, lambda line, key=prefix + key, name=name: line["audit"]["label_shares"][name][key])  # type: ignore[misc]
            for key in ("total_variation", "kl")
        ]
        rows.append(f"| {shown} | {' | '.join(cells)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=RUNS, metavar="RUN")
    parser.add_argument("--sources", nargs="+", default=list(SOURCES), choices=SOURCES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    if not given.table:
        there = {Cell(line["source"], line["run"], line["seed"]) for line in lines_of(RESULTS, WHOLE_SETTING)}
        asked = [Cell(source, name, seed) for seed in given.seeds for name in given.only for source in given.sources]
        fill([cell for cell in asked if cell not in there], run, RESULTS, describe=describe, workers=given.workers)
    print(tables(lines_of(RESULTS, WHOLE_SETTING)))


if __name__ == "__main__":
    main()
