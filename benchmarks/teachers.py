"""One small student on Fashion-MNIST: what does it gain from four teachers, by each target, and from one, by each loss?

    python benchmarks/teachers.py            # teachers, then the cells not yet in results/teachers.jsonl, then the tables
    python benchmarks/teachers.py --only entropy dkd --seeds 0               # some cells only
    python benchmarks/teachers.py --table                                    # only print what is there

10,000 training images drawn by the seed (9,500 to train on, at one place; 500 set aside and not used), all 10,000 test images.
Teachers: an MLP, two CNNs of different size and a ResNet-18 of width 8, 12 epochs each by cross-entropy. Student: a CNN of 4
and 8 channels (13,242 parameters), 20 epochs of Adam with a cosine rate, cross-entropy plus the loss at its usual weight
(fedkd.losses.distillers), T = 4; no augmentation; the accuracy is the last epoch's. The student's rate is the one of 0.002,
0.005 and 0.01 at which it does best without a teacher (seed 0). Target and loss are the only things that differ
between cells of a seed: the same images, the same initial weights, the same order of batches. Two more rows leave the labels
out, on the same images and on as many that the teachers have not seen.
A cell is one run in a one-thread process; two run side by side. Teachers are kept in runs/teachers, which is not committed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cells import fill, lines_of
from given import positive

if TYPE_CHECKING:
    from fedkd import Experiment

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "teachers.jsonl"
TEACHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("mlp", {"hidden": [256, 128]}),
    "small_cnn": ("cnn", {"channels": [16, 32], "hidden": 64}),
    "cnn": ("cnn", {"channels": [32, 64], "hidden": 128}),
    "resnet18": ("resnet18", {"width": 8}),
}
STUDENT = ("cnn", {"channels": [4, 8], "hidden": 32})
TARGETS = ("mean_probs", "mean_logits", "entropy", "confidence", "min_norm", "min_logit")
#: The teacher of the table over losses: it has as many maps as the student, of the same sizes.
ONE_TEACHER = "cnn"
SETTING: dict[str, Any] = {
    "train": {"epochs": 1, "batch_size": 64, "optimizer": "adam", "lr": 0.002, "weight_decay": 0.0, "schedule": "cosine"},
    "data": {"source": "fashion_mnist", "train_limit": 10_000, "clients": 1, "partition": "shared", "client_test": 0.05},
    "evaluate_every": 10**6,  # before the first epoch and after the last
}
#: The teachers' images are the first 10,000 of the seed's order: these are the next 10,000.
FRESH_DATA = {**SETTING["data"], "train_limit": 20_000, "validation": 10_000}
TEACHER_EPOCHS, STUDENT_EPOCHS, STUDENT_LR, TEMPERATURE = 12, 20, 0.005, 4.0
WHOLE_SETTING = {
    **SETTING,
    "student": STUDENT,
    "teachers": TEACHERS,
    "epochs": [TEACHER_EPOCHS, STUDENT_EPOCHS],
    "lr": STUDENT_LR,
    "temperature": TEMPERATURE,
}


@dataclass(frozen=True)
class Cell:
    """One run. ``kind``: "teacher" (its own training), "alone", "target" (of all teachers), "loss" (one teacher),
    "same" (a target of all teachers on the same images without their labels), "fresh" (on as many other images, without).
    """

    kind: str
    name: str
    seed: int
    teacher: str = ""

    def experiment(self) -> Experiment:
        """What is run."""
        from fedkd import Experiment
        from fedkd.methods.students.teaching import TeachingTask

        net, options = TEACHERS[self.name] if self.kind == "teacher" else STUDENT
        taught = [self.teacher] if self.teacher else list(TEACHERS)
        lesson = {
            "name": "multi_teacher",
            "teachers": [str(place(name, self.seed)) for name in taught],
            "temperature": TEMPERATURE,
        }
        hears_logits = self.kind == "loss" and TeachingTask(loss=self.name).on_logits
        target = {"target": "mean_logits"} if hears_logits else {}  # of one teacher: its own logits
        strategy: dict[str, dict[str, Any]] = {
            "teacher": {"name": "local"},
            "alone": {"name": "centralised"},
            "target": {**lesson, "target": self.name},
            "same": {**lesson, "target": self.name, "label_weight": 0.0},
            "fresh": {**lesson, "target": self.name, "label_weight": 0.0},
            "loss": {**lesson, "loss": self.name, **target},
        }
        rounds = TEACHER_EPOCHS if self.kind == "teacher" else STUDENT_EPOCHS
        train = SETTING["train"] if self.kind == "teacher" else {**SETTING["train"], "lr": STUDENT_LR}
        return Experiment(
            strategy=strategy[self.kind],
            nets=net,
            net_options={net: options},
            rounds=rounds,
            seed=self.seed,
            **{**SETTING, "train": train, **({"data": FRESH_DATA} if self.kind == "fresh" else {})},
        )


def place(teacher: str, seed: int) -> Path:
    """Where a teacher's run lies."""
    return ROOT / "runs" / "teachers" / f"seed-{seed}" / teacher


def all_cells(seeds: Iterable[int]) -> list[Cell]:
    """Every student, seed by seed."""
    from fedkd.losses.distillers import DISTILLERS

    on_one = [(name, ONE_TEACHER) for name, recipe in DISTILLERS.items() if "memory" not in recipe.needs]
    plain = [("kd", teacher) for teacher in TEACHERS]
    cells = []
    for seed in seeds:
        cells += [Cell("alone", "no teacher", seed), *(Cell("target", name, seed) for name in TARGETS)]
        cells += [Cell("loss", name, seed, teacher) for name, teacher in dict.fromkeys([*plain, *on_one])]
        cells += [Cell(kind, "mean_probs", seed) for kind in ("same", "fresh")]
    return cells


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results."""
    from fedkd import simulate
    from fedkd.results.environment import cpu_model

    began = time.perf_counter()
    out = place(cell.name, cell.seed) if cell.kind == "teacher" else None
    if out and (out / "report.html").exists():  # a teacher that an earlier call has trained
        last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    else:
        last = simulate(cell.experiment(), "in-process", out=out).metrics[-1]
    numbers = {key: last[key] for key in ("accuracy", "server_distillation", "server_cross_entropy") if key in last}
    return {**asdict(cell), **numbers, "seconds": time.perf_counter() - began, "cpu": cpu_model(), "setting": WHOLE_SETTING}


def finished() -> dict[Cell, float]:
    """Accuracy of the cells that are there, of this very setting."""
    lines = lines_of(RESULTS, WHOLE_SETTING)
    return {Cell(line["kind"], line["name"], line["seed"], line["teacher"]): line["accuracy"] for line in lines}


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    return f"{line['kind']} {line['name']} {line['teacher']}, seed {line['seed']}: {line['accuracy']:.4f}"


def row(found: Mapping[Cell, float], title: str, chosen: Callable[[Cell], bool]) -> str:
    """A row of a table: accuracy, and what was gained over no teacher, seed by seed; 95 % intervals."""
    from fedkd.results.statistics import mean_interval, percent

    alone = {cell.seed: value for cell, value in found.items() if cell.kind == "alone"}
    values = {cell.seed: value for cell, value in found.items() if chosen(cell)}
    if not values:
        return f"| {title} | | |"
    gains = [100 * (values[seed] - alone[seed]) for seed in sorted(values.keys() & alone.keys())]
    mean, half = mean_interval(gains) if gains else (np.float64("nan"), np.float64("nan"))
    return f"| {title} | {percent(list(values.values()))} | {float(mean):+.1f} ± {float(half):.1f} |"


def tables(found: Mapping[Cell, float]) -> str:
    """Both tables, as Markdown."""
    from fedkd.losses.distillers import DISTILLERS

    head = ["| | accuracy | over no teacher, points |", "|---|---|---|"]
    first = [row(found, f"teacher: {name}", lambda c, name=name: (c.kind, c.name) == ("teacher", name)) for name in TEACHERS]
    first += [row(found, "student, no teacher", lambda c: c.kind == "alone")]
    first += [
        row(found, f"student, kd from {name}", lambda c, name=name: (c.kind, c.name, c.teacher) == ("loss", "kd", name))
        for name in TEACHERS
    ]
    first += [
        row(found, f"student, {name} of four", lambda c, name=name: (c.kind, c.name) == ("target", name)) for name in TARGETS
    ]
    first += [
        row(found, f"student, mean_probs of four, {images} images, no labels", lambda c, kind=kind: c.kind == kind)
        for kind, images in (("same", "the same"), ("fresh", "9,500 other"))
    ]
    second = [
        row(found, name, lambda c, name=name: (c.kind, c.name, c.teacher) == ("loss", name, ONE_TEACHER))
        for name, recipe in DISTILLERS.items()
        if "memory" not in recipe.needs
    ]
    return "\n".join([*head, *first, "", *head, *second])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of targets and losses")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    if not given.table:
        there = finished()
        slowest_first = [Cell("teacher", name, seed) for name in reversed(TEACHERS) for seed in given.seeds]
        how = {"describe": describe, "workers": given.workers}
        fill([cell for cell in slowest_first if cell not in there], run, RESULTS, **how)
        asked = [cell for cell in all_cells(given.seeds) if not given.only or cell.name in given.only]
        fill([cell for cell in asked if cell not in there], run, RESULTS, **how)
    print(f"\nAccuracy on the test images with 95 % intervals over seeds\n\n{tables(finished())}")


if __name__ == "__main__":
    main()
