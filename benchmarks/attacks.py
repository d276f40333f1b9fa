"""A quarter of the clients attack: how well do the honest ones learn, under each way to reduce what all of them said?

    python benchmarks/attacks.py                     # the cells that are not in results/attacks.jsonl yet, then the table
    python benchmarks/attacks.py --only label_flip   # some attacks only; --seeds 0 1, --reductions mean median, ...
    python benchmarks/attacks.py --table             # only print what is there

Strategy ``cronus`` on Fashion-MNIST: 16 clients of 200 training and 200 test images each (iid), nets "mlp", 500 public images
without labels, 8 rounds of 2 epochs. The same four clients attack from the first round to the last, for all attacks of a seed.
A cell is one run; its figure is the mean, over the twelve honest clients, of the accuracy on their own test images after the
last round. Attackers' nets do not count. "none" counts the same twelve. Clients that learn alone (``local``) take as many steps
as the others, by more epochs. ExpGuard's eta is 1, tried beside 5 and 20 on seed 3, which is in no table. Cells run in two
one-thread processes, ten CPU seconds each: a quarter of an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cells import fill, lines_of
from given import positive

if TYPE_CHECKING:
    from fedkd import Experiment

RESULTS = Path(__file__).parent / "results" / "attacks.jsonl"
#: How a column is named -> the strategy's keys.
DEFENCES: dict[str, dict[str, Any]] = {
    "mean": {"aggregate": "mean"},
    "median": {"aggregate": "median"},
    "trimmed_mean": {"aggregate": "trimmed_mean"},
    "spectral_filter": {"aggregate": "spectral_filter"},
    "expguard_mean": {"aggregate": "mean", "expguard": 1.0},
    "expguard_median": {"aggregate": "median", "expguard": 1.0},
}
REDUCTIONS = tuple(DEFENCES)
NONE, LOCAL = "none", "local"
SETTING: dict[str, Any] = {
    "rounds": 8,
    "nets": "mlp",
    "train": {"epochs": 2, "batch_size": 32, "lr": 0.05, "momentum": 0.9},
    "data": {
        "source": "fashion_mnist",
        "train_limit": 500 + 16 * 400,
        "public": 500,
        "clients": 16,
        "partition": "iid",
        "client_test": 0.5,
    },
}
SHARE = 0.25
#: As many steps of own images only as a client of the others takes of own and public ones: (200 + 500) / 200 times 2 epochs.
LOCAL_EPOCHS = 7
WHOLE_SETTING = {**SETTING, "share": SHARE, "local_epochs": LOCAL_EPOCHS}
#: What an attack does, for a reader whom its row surprises.
MEANING = {
    "label_flip": "trains on labels C - 1 - c: the attackers agree with each other, and are as sure as honest clients",
    "sign_flip": "mirrors rows (max + min - p): all classes but the likeliest look alike, so a mean gets softer, not wrong",
    "noise": "gives random rows, different ones at each attacker: they point nowhere together, and a mean evens them out",
    "least_likely_class": "puts all mass on the class held least likely: as far from the honest row as a row can be",
    "similar_class": "swaps the two likeliest classes: near the honest rows, so that a filter of outliers does not see it",
    "free_rider": "sends back what the server sent: no outlier, and a drag on progress at most",
    "lma": "puts all mass on the class that the honest mean holds least likely: all attackers send the same rows",
    "cpa": "puts all mass on the class least like the one that the honest mean names: all attackers send the same rows",
    "hips": "copies, row by row, the honest client that draws the mean farthest off: no filter of rows can see it",
}


@dataclass(frozen=True)
class Cell:
    """One run. ``reduction`` is one of DEFENCES, or "local": no exchange at all."""

    reduction: str
    attack: str
    seed: int

    def experiment(self) -> Experiment:
        """What is run; what differs between cells, and no more."""
        from fedkd import Experiment

        attack = {} if self.attack == NONE else {"name": self.attack, "share": SHARE}
        # evaluate_every: before the first round and after the last, as evaluation costs a round's training here.
        common = {"seed": self.seed, "attack": attack, "evaluate_every": 10**6, **SETTING}
        if self.reduction == LOCAL:
            return Experiment(**common | {"strategy": LOCAL, "train": SETTING["train"] | {"epochs": LOCAL_EPOCHS}})
        return Experiment(**common, strategy={"name": "cronus", **DEFENCES[self.reduction]})

    def honest(self) -> list[int]:
        """The clients that count: those that attack in no cell of this seed."""
        from fedkd.experiment.algorithm.participation import attackers

        hostile = attackers(self.experiment().replace(attack={"name": "label_flip", "share": SHARE}))
        return [client for client in range(SETTING["data"]["clients"]) if client not in hostile]


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results."""
    from fedkd import simulate
    from fedkd.results.environment import cpu_model

    began = time.perf_counter()
    history = simulate(cell.experiment(), "in-process")
    last = {row["client"]: row for row in history.clients if row["round"] == SETTING["rounds"]}
    failures = {reason for row in history.metrics for reason in row.get("failures", {})}
    if missing := [client for client in cell.honest() if "accuracy" not in last.get(client, {})]:
        raise RuntimeError(f"{cell}: honest clients {missing} have no accuracy; failures: {sorted(failures)}")
    accuracy = float(np.mean([last[client]["accuracy"] for client in cell.honest()]))
    facts = {"honest_accuracy": accuracy, "failures": sorted(failures), "seconds": time.perf_counter() - began}
    return {**asdict(cell), **facts, "cpu": cpu_model(), "setting": WHOLE_SETTING}


def finished() -> dict[Cell, float]:
    """Accuracy of the cells that are there, of this very setting."""
    lines = lines_of(RESULTS, WHOLE_SETTING)
    return {Cell(line["reduction"], line["attack"], line["seed"]): line["honest_accuracy"] for line in lines}


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    return f"{line['reduction']}, {line['attack']}, seed {line['seed']}: {line['honest_accuracy']:.3f}"


def by_seed(found: Mapping[Cell, float], reduction: str, attack: str) -> dict[int, float]:
    """The accuracy of each seed."""
    return {cell.seed: value for cell, value in found.items() if (cell.reduction, cell.attack) == (reduction, attack)}


def difference(found: Mapping[Cell, float], one: tuple[str, str], other: tuple[str, str]) -> tuple[float, float]:
    """One (reduction, attack) minus another: the mean over the seeds of both, and half its 95 % interval, in points.

    Cells of a seed have the same images, the same initial weights and the same attackers: the difference is taken seed by seed.
    """
    from fedkd.results.statistics import mean_interval

    left, right = by_seed(found, *one), by_seed(found, *other)
    values = [100 * (left[seed] - right[seed]) for seed in sorted(left.keys() & right.keys())]
    mean, half = mean_interval(values) if values else (np.float64("nan"), np.float64("nan"))
    return float(mean), float(half)


def table(found: Mapping[Cell, float], attacks: Iterable[str]) -> str:
    """A row an attack, a column a reduction; the best of a row in bold."""
    from fedkd.results.statistics import percent

    lines = [f"| attack by {SHARE:.0%} | {' | '.join(REDUCTIONS)} |", "|---" * (len(REDUCTIONS) + 1) + "|"]
    for attack in attacks:
        values = {reduction: list(by_seed(found, reduction, attack).values()) for reduction in REDUCTIONS}
        best = max((float(np.mean(v)) for v in values.values() if v), default=0.0)
        texts = [(percent(v), float(np.mean(v)) == best) if v else ("", False) for v in values.values()]
        lines.append(f"| {attack} | {' | '.join(f'**{text}**' if first else text for text, first in texts)} |")
    if alone := list(by_seed(found, LOCAL, NONE).values()):
        lines.append(f"\nWithout any exchange (`local`): {percent(alone)}.")
    return "\n".join(lines)


def remarks(found: Mapping[Cell, float], attacks: Iterable[str]) -> list[str]:
    """What in the table asks for an explanation, from differences that are larger than their 95 % interval."""
    from fedkd.aggregate.robust import dropped
    from fedkd.experiment.registry import strategies

    clients, said = SETTING["data"]["clients"], []
    share = strategies()["cronus"]().corrupt  # type: ignore[attr-defined]
    said.append(
        f"trimmed_mean (at each end) and spectral_filter leave out at most {dropped(share, clients)} of {clients} clients "
        f"(Cronus's corrupt = {share}); {round(SHARE * clients)} attack. The public images have no labels: what honest "
        "clients learn from a bent row is in the rows that they send next, so harm builds up, and accuracy may fall again."
    )
    for attack in attacks:
        harm, half = difference(found, ("mean", attack), ("mean", NONE))
        if attack != NONE and not np.isnan(half):
            what = "harms the mean" if harm < -half else "helps the mean" if harm > half else "does the mean no clear harm"
            said.append(f"{attack} {what} ({harm:+.1f} ± {half:.1f} points). It {MEANING[attack]}.")
        for reduction in REDUCTIONS[1:]:
            gain, half = difference(found, (reduction, attack), ("mean", attack))
            if abs(gain) > half:
                price = "the price of robustness where there is no attack" if attack == NONE else "worse than no defence"
                said.append(f"{attack}: {reduction} over mean {gain:+.1f} ± {half:.1f} points" + f", {price}." * (gain < 0))
        for reduction in REDUCTIONS:
            loss, half = difference(found, (reduction, attack), (LOCAL, NONE))
            if loss < -half:
                said.append(f"{attack}: with {reduction}, taking part is worse than learning alone ({loss:+.1f} ± {half:.1f}).")
    return said


def main() -> None:
    from fedkd.knowledge.attacks import ATTACKS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[NONE, *ATTACKS], choices=[NONE, *ATTACKS], metavar="ATTACK")
    parser.add_argument("--reductions", nargs="+", default=list(REDUCTIONS), choices=REDUCTIONS, metavar="REDUCTION")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    if not given.table:
        there = finished()
        alone = [Cell(LOCAL, NONE, seed) for seed in given.seeds] if given.only == [NONE, *ATTACKS] else []
        asked = [
            Cell(reduction, attack, seed) for seed in given.seeds for attack in given.only for reduction in given.reductions
        ]
        left = [cell for cell in [*alone, *asked] if cell not in there]
        fill(left, run, RESULTS, describe=describe, workers=given.workers)
    found = finished()
    print(f"\nAccuracy of the honest clients, %, with 95 % intervals over seeds\n\n{table(found, [NONE, *ATTACKS])}\n")
    for remark in remarks(found, [NONE, *ATTACKS]):
        print(f"- {remark}")


if __name__ == "__main__":
    main()
