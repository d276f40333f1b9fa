"""The same students, taught by fedkd and by the rivals' own code: do they end alike, and where not, why?

    python benchmarks/side_by_side_teachers.py --copies DIR            # the cells not yet in the results, then the table
    python benchmarks/side_by_side_teachers.py --copies DIR --only kd at --seeds 0
    python benchmarks/side_by_side_teachers.py --table                 # only print what is there

DIR holds checkouts of the rivals' repositories, at the commits of ``COPIES``; without one the program says how to get it. Their
losses and their training loops run from there, by the drivers in ``peers``; none of it is part of fedkd.

Fashion-MNIST, 2,048 training and 2,000 test images drawn by the seed. Teacher: a CNN of 16, 32 and 64 channels, trained by
fedkd, one a seed for all codes. Student: 4, 8 and 16 channels; both with BatchNorm. Ten epochs of SGD without momentum in
batches of 64, rate 0.05, a tenth of it after epochs 6 and 8, weight decay 5e-4, no augmentation; the last epoch's accuracy.
All codes start from the same weights and take the same batches in the same order: ``hand_over.py`` asks fedkd which.
A cell is one run in a one-thread process, a test after each epoch included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cells import fill, finished, intervals_over
from given import positive

if TYPE_CHECKING:
    from fedkd import Experiment

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "side_by_side_teachers.jsonl"
RUNS = HERE.parent / "runs" / "side_by_side_teachers"
#: Code -> its repository, and the commit that was run.
COPIES = {
    "RepDistiller": ("https://github.com/HobbitLong/RepDistiller", "b84f547c5db6a35318d4671d7d5c4de74c822403"),
    "mdistiller": ("https://github.com/megvii-research/mdistiller", "a08d46f10d6102bd6e3f258ca5ac880b020ea259"),
    "KD_Lib": ("https://github.com/SforAiDl/KD_Lib", "a94d236050e81965d7e0c03d7dee3b63e67b675a"),
}
TEACHER, STUDENT = [16, 32, 64], [4, 8, 16]
SETTING: dict[str, Any] = {
    "rounds": 10,
    "nets": "cnn",
    "train": {
        "batch_size": 64,
        "lr": 0.05,
        "momentum": 0.0,
        "weight_decay": 5e-4,
        "schedule": "step",
        "milestones": [6, 8],
        "gamma": 0.1,
    },
    "data": {"source": "fashion_mnist", "train_limit": 2048, "test_limit": 2000, "partition": "shared", "client_test": 0.0},
}
MOMENTUM = {"lr": 0.01, "momentum": 0.9}
#: fedkd's strategies, with the weights that RepDistiller's script gives; "teachers" and the rest of the setting are added.
OURS: dict[str, dict[str, Any]] = {
    "teacher": {"name": "local"},
    "plain": {"name": "centralised"},
    "kd": {"name": "multi_teacher", "loss": "kd", "weight": 0.9, "label_weight": 0.1},
    "kd, momentum": {"name": "multi_teacher", "loss": "kd", "weight": 0.9, "label_weight": 0.1},
    "kd, weights 1 and 1": {"name": "multi_teacher", "loss": "kd"},
    "at": {"name": "multi_teacher", "loss": "at"},
    "sp": {"name": "multi_teacher", "loss": "sp"},
    "crd": {"name": "multi_teacher", "loss": "crd", "loss_options": {"negatives": 1024}},
    "dkd": {"name": "multi_teacher", "loss": "dkd", "loss_options": {"beta": 2.0}},
    "dkd, beta 8": {"name": "multi_teacher", "loss": "dkd"},
    "dkd, beta 8, ramp": {"name": "multi_teacher", "loss": "dkd", "ramp": 1.0},
    "dml": {"name": "dml"},
    "dml, sequential": {"name": "dml", "update": "sequential"},
    "dml, mse": {"name": "dml", "update": "sequential", "loss": "logit_mse"},
}
#: The rivals' methods by the names that the drivers know -> whose.
THEIRS = {
    **dict.fromkeys(
        ("plain", "plain, other layout", "kd", "kd, momentum", "at", "sp", "crd", "crd, drawn again"), "RepDistiller"
    ),
    **dict.fromkeys(("dkd", "dkd, warm-up", "dkd, beta 8", "dkd, beta 8, warm-up"), "mdistiller"),
    **dict.fromkeys(("dml", "dml, in train mode", "dml, kl", "dml, kl, in train mode"), "KD_Lib"),
}
#: The table: what fedkd ran beside what a rival ran, with the same settings or with others. Several rows show one cell.
ALIKE = (
    ("plain", "plain"),
    ("plain", "plain, other layout"),
    ("kd", "kd"),
    ("at", "at"),
    ("sp", "sp"),
    ("crd", "crd"),
    ("crd", "crd, drawn again"),
    ("dkd", "dkd"),
    ("dkd, beta 8", "dkd, beta 8"),
    ("dml, sequential", "dml, kl, in train mode"),
)
UNLIKE = (
    ("kd, momentum", "kd, momentum"),
    ("kd, weights 1 and 1", "kd"),
    ("dkd", "dkd, warm-up"),
    ("dkd, beta 8", "dkd, beta 8, warm-up"),
    ("dkd, beta 8, ramp", "dkd, beta 8, warm-up"),
    ("dml", "dml, kl, in train mode"),
    ("dml", "dml, kl"),
    ("dml", "dml"),
    ("dml, mse", "dml, in train mode"),
    ("dml, mse", "dml"),
)


@dataclass(frozen=True)
class Cell:
    """One run: of fedkd, or of a rival's code in ``copies``."""

    code: str
    method: str
    seed: int
    copies: str = field(default="", compare=False)

    @property
    def train(self) -> dict[str, Any]:
        """The [train] settings."""
        return SETTING["train"] | (MOMENTUM if "momentum" in self.method else {})

    def setting(self) -> dict[str, Any]:
        """What a line is made with: another setting, another line."""
        nets = {"teacher": TEACHER, "student": STUDENT}
        how = {"strategy": OURS[self.method]} if self.code == "fedkd" else {"commit": COPIES[self.code][1]}
        return {**SETTING, "train": self.train, **nets, "code": self.code, **how}

    def experiment(self) -> Experiment:
        """What fedkd runs; of a rival's cell, the run whose data, nets and batches it gets."""
        strategy = dict(OURS[self.method] if self.code == "fedkd" else OURS["plain"])
        if strategy["name"] == "multi_teacher":
            strategy["teachers"] = [str(RUNS / f"seed-{self.seed}" / "teacher")]
        return make_experiment(strategy, self.seed, TEACHER if self.method == "teacher" else STUDENT, self.train)


def make_experiment(strategy: dict[str, Any], seed: int, channels: list[int], train: dict[str, Any]) -> Experiment:
    """A run of SETTING: one client, or two peers."""
    from fedkd import Experiment

    data = SETTING["data"] | {"clients": 2 if strategy["name"] == "dml" else 1}
    options = {"cnn": {"channels": channels, "hidden": 2 * channels[-1], "norm": "batch"}}
    return Experiment(strategy=strategy, seed=seed, net_options=options, **SETTING | {"train": train, "data": data})


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results."""
    import torch

    from fedkd.results.environment import cpu_model

    torch.set_num_threads(1)
    began = time.perf_counter()
    out = RUNS / f"seed-{cell.seed}" / "teacher" if cell.method == "teacher" else None
    rows = run_fedkd(cell.experiment(), out) if cell.code == "fedkd" else run_rival(cell)
    seconds = time.perf_counter() - began
    numbers = {
        "accuracy": rows[-1]["accuracy"],
        "curve": [row["accuracy"] for row in rows],
        "losses": [r["loss"] for r in rows],
    }
    who = {key: value for key, value in asdict(cell).items() if key != "copies"}
    return {**who, **numbers, "seconds": rows[-1].get("seconds", seconds), "cpu": cpu_model(), "setting": cell.setting()}


def run_fedkd(experiment: Experiment, out: Path | None = None) -> list[dict[str, Any]]:
    """Accuracy and training loss of each epoch; of two peers, their mean accuracy."""
    from fedkd import simulate

    rows = simulate(experiment, "in-process", out=out).metrics
    return [
        {
            "accuracy": row.get("mean_peer_accuracy", row["accuracy"]),
            "loss": row.get("server_loss", row.get("server_cross_entropy", row.get("loss"))),
        }
        for row in rows
        if row["round"] > 0
    ]


def run_rival(cell: Cell) -> list[dict[str, Any]]:
    """Accuracy and training loss of each epoch, by the driver in ``peers``, and the seconds since its imports."""
    from hand_over import write_task

    folder = RUNS / f"seed-{cell.seed}"
    path, twins = folder / f"{cell.code}-{cell.method}.pt", make_experiment(OURS["dml"], cell.seed, STUDENT, cell.train)
    write_task(cell.experiment(), twins, str(folder / "teacher"), path)
    driver = HERE / "peers" / f"with_{cell.code.lower()}.py"
    command = [sys.executable, str(driver), str(path), str(Path(cell.copies) / cell.code), cell.method]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    path.unlink()
    if done.returncode:
        raise RuntimeError(f"{cell.code}, {cell.method}, seed {cell.seed}: its driver failed:\n{done.stderr[-2000:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [{**row, "accuracy": sum(row["accuracies"]) / len(row["accuracies"])} for row in rows]


def check_copies(folder: str, codes: set[str]) -> None:
    """SystemExit where a rival's checkout is missing or at another commit: one line that says what to do."""
    for code in sorted(codes - {"fedkd"}):
        address, commit = COPIES[code]
        place = Path(folder) / code
        said = subprocess.run(["git", "-C", str(place), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        if said.stdout.strip() != commit:
            cure = f"git clone {address} {place} && git -C {place} checkout {commit}"
            print(f"--copies: {place} is not {code} at {commit[:8]}: {cure}", file=sys.stderr)
            raise SystemExit(2)


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    return f"{line['code']} {line['method']}, seed {line['seed']}: {line['accuracy']:.4f}"


def table(found: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A row a comparison, as Markdown: 95 % intervals over seeds; differences are seed by seed."""
    from fedkd.results.statistics import percent

    def of(code: str, method: str) -> list[Mapping[str, Any]]:
        mine = [line for cell, line in found.items() if (cell.code, cell.method) == (code, method)]
        return [{**line, "accuracy": round(line["accuracy"], 6)} for line in mine]  # some are float32's

    heads = ["fedkd", "accuracy", "s", "rival", "accuracy", "s", "fedkd over rival, points", "losses apart, epochs 1 and 10"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for ours, theirs in (*ALIKE, *UNLIKE):
        pair = of("fedkd", ours), of(THEIRS[theirs], theirs)
        if not all(pair):
            continue
        texts = []
        for name, rows in zip((ours, f"{THEIRS[theirs]}: {theirs}"), pair, strict=True):
            seconds = sum(row["seconds"] for row in rows) / len(rows)
            texts += [name, percent([row["accuracy"] for row in rows]), f"{seconds:.0f}"]
        texts += [intervals_over(*pair, "accuracy"), losses_apart(*pair) if (ours, theirs) in ALIKE else ""]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def losses_apart(ours: list[Mapping[str, Any]], theirs: list[Mapping[str, Any]]) -> str:
    """The largest relative difference of the mean training loss over seeds, in the first epoch and in the last."""
    same = {line["seed"]: line["losses"] for line in theirs if line["losses"][0] is not None}
    pairs = [(line["losses"], same[line["seed"]]) for line in ours if line["seed"] in same]
    if not pairs:
        return ""
    return ", ".join(f"{max(abs(own[epoch] / other[epoch] - 1) for own, other in pairs):.1g}" for epoch in (0, -1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", default="", metavar="DIR", help="where the rivals' checkouts lie")
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD", help="of fedkd or of a rival, as the table names it")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    cells = [
        Cell(code, method, seed, given.copies)
        for seed in given.seeds
        for method, code in [*((method, "fedkd") for method in OURS), *THEIRS.items()]
        if method == "teacher" or not given.only or method in given.only
    ]
    if not given.table:
        there = finished(cells, RESULTS)
        missing = [cell for cell in cells if cell not in there]
        check_copies(given.copies, {cell.code for cell in missing})
        for teaches in (True, False):
            fill(
                [c for c in missing if (c.method == "teacher") == teaches],
                run,
                RESULTS,
                describe=describe,
                workers=given.workers,
            )
    print(table(finished(cells, RESULTS)))


if __name__ == "__main__":
    main()
