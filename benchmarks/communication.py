"""What methods reach and what they send: mixed nets, and logits against weights on equal nets. Fashion-MNIST, 3 seeds.

    python benchmarks/communication.py                  # all runs that have no result file yet, then tables and figure
    python benchmarks/communication.py --only mixed     # one of the two settings
    python benchmarks/communication.py --show           # tables and figure from the result files

A finished run is one folder in benchmarks/results/communication: its experiment, its rows. Delete it to have it made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedkd import Experiment, simulate
from fedkd.results.environment import environment
from fedkd.results.figures.style import COLOURS, LINES, MARKERS, OF_FILES, STYLE
from fedkd.results.statistics import mean_interval, percent, sent_up, size

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "communication"
SEEDS = (0, 1, 2)
#: These were measured on a CPU that has no fast bf16. Precision is not what tells the methods apart.
FP32 = {"train.precision": "fp32"}
#: setting -> method -> its keys beyond those of simulations/fashion_mnist_<setting>.toml
METHODS: dict[str, dict[str, dict[str, str]]] = {
    "mixed": {
        "local": {},
        "fd": {},
        "fedmd": {"strategy.private_epochs": "2", **FP32},  # of the warm-up; the public set has no labels here
        "dsfl": FP32,
        "cfd": {"strategy.distillation_epochs": "2"},  # clients start anew each round
        "feddf": {"strategy.steps": "100", "strategy.patience": "50"},
        "fedproto": {},
        "fml": FP32,
    },
    "equal": {"fedavg": {}, "cfd": {"strategy.distillation_epochs": "5"}, "dsfl": FP32, "fd": {}},
}
#: Under these names strategies report a net at the server, on the global test set.
SERVER_NETS = ("server_accuracy", "global_accuracy", "meme_accuracy")
#: The accuracy that is drawn against bytes, by setting.
HEADLINE = {"mixed": "client_accuracy", "equal": "accuracy"}

#: Black for who sends nothing, one of its own for each of the others.
PALETTE = ("#000000", *COLOURS[:-1], "#8C564B", "#7F7F7F")

Rows = list[dict[str, Any]]


def runs(setting: str) -> Iterator[tuple[str, int, Path]]:
    """Seed by seed, so that an interrupted benchmark has all methods."""
    for seed in SEEDS:
        for method in METHODS[setting]:
            yield method, seed, RESULTS / setting / method / f"seed-{seed}"


def make(setting: str) -> None:
    for method, seed, folder in runs(setting):
        if (folder / "metrics.jsonl").exists():
            continue
        file = ROOT / "simulations" / f"fashion_mnist_{setting}.toml"
        changes = {"strategy.name": method, "seed": str(seed), **METHODS[setting][method]}
        experiment = Experiment.from_toml(file, changes)
        history = simulate(experiment)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "experiment.toml").write_text(experiment.to_toml())
        (folder / "env.json").write_text(json.dumps(environment(), indent=1) + "\n")
        rows = "".join(json.dumps(row) + "\n" for row in history.metrics)
        (folder / "metrics.jsonl").write_text(rows)
        last = history.metrics[-1]
        print(f"{setting} {method} seed {seed}: {last.get(HEADLINE[setting], float('nan')):.3f}", flush=True)


def found(setting: str) -> dict[str, list[Rows]]:
    """Method -> the rows of each seed that has been made."""
    read: dict[str, list[Rows]] = {method: [] for method in METHODS[setting]}
    for method, _, folder in runs(setting):
        if (file := folder / "metrics.jsonl").exists():
            read[method].append([json.loads(line) for line in file.read_text().splitlines()])
    return {method: seeds for method, seeds in read.items() if seeds}


def last(seeds: Sequence[Rows], key: str) -> str:
    values = [rows[-1][key] for rows in seeds if key in rows[-1]]
    return percent(values).replace(" %", "") if values else ""


def table(setting: str, clients: int = 20) -> str:
    heads = ["method", "own test %", "worst tenth %", "server net %", "up, a client and round", "down", "seconds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for method, seeds in found(setting).items():
        served = next((key for key in SERVER_NETS if key in seeds[0][-1]), "")
        rounds = len(seeds[0]) - 1
        up = np.mean([sum(map(sent_up, rows)) for rows in seeds]) / rounds / clients
        down = np.mean([sum(row.get("coded_bytes_down", 0) for row in rows) for rows in seeds]) / rounds / clients
        seconds = np.mean([sum(row["seconds"] for row in rows) for rows in seeds])
        cells = [method, last(seeds, "client_accuracy"), last(seeds, "worst_tenth_accuracy"), last(seeds, served)]
        lines.append(f"| {' | '.join([*cells, size(float(up)), size(float(down)), f'{seconds:.0f}'])} |")
    return "\n".join(lines)


def course(seeds: Sequence[Rows], key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes uploaded by all clients so far, mean accuracy over seeds and its half interval, where it was measured."""
    measured = [row["round"] for row in seeds[0] if key in row]
    sent = [np.cumsum([sent_up(row) for row in rows])[measured] for rows in seeds]
    mean, half = mean_interval([[rows[round][key] for round in measured] for rows in seeds])
    return np.mean(sent, axis=0), mean, np.nan_to_num(half)


def at_equal_accuracy() -> str:
    """Bytes until the mean over seeds first reaches a target, beside FedAvg's; the highest target that both reach."""
    curves = {method: course(seeds, "accuracy") for method, seeds in found("equal").items()}
    lines = ["| method | best % | target % | bytes to it | FedAvg's | times fewer |", "|---|---|---|---|---|---|"]
    sent, accuracy, _ = curves.pop("fedavg")
    for method, (mine, reached, _) in curves.items():
        target = min(reached[1:].max(), accuracy[1:].max())
        mine_at, fedavg_at = (float(x[1:][y[1:] >= target][0]) for x, y in ((mine, reached), (sent, accuracy)))
        accuracies = [f"{100 * reached.max():.1f}", f"{100 * target:.1f}"]
        cells = [method, *accuracies, size(mine_at), size(fedavg_at), f"{fedavg_at / mine_at:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(path: Path) -> None:
    """Both settings side by side: accuracy against the bytes that all clients uploaded so far, on a log axis."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    titles = {"mixed": "mixed nets, own test split", "equal": "equal nets, global test set"}
    with rc_context({**STYLE, **OF_FILES}):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        for panel, (setting, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
            for method, seeds in found(setting).items():
                draw_course(panel, method, course(seeds, HEADLINE[setting]))
            label(panel, f"{title}: mean of {len(SEEDS)} seeds, 95 % band")
        figure.savefig(path, dpi=150, metadata={"Software": None})


def draw_course(panel: Any, method: str, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    sent, mean, half = drawn
    place = list(dict.fromkeys([*METHODS["mixed"], *METHODS["equal"]])).index(method)
    style: dict[str, Any] = {"color": PALETTE[place % len(PALETTE)], "linestyle": LINES[place % len(LINES)]}
    if not sent[-1]:
        panel.axhline(mean[-1], label=f"{method} (sends nothing), at the end", **style)
        return
    panel.plot(sent[1:], mean[1:], label=method, marker=MARKERS[place % len(MARKERS)], markersize=4, **style)
    low, high = ((mean + side * half).clip(0, 1)[1:] for side in (-1, 1))
    panel.fill_between(sent[1:], low, high, color=style["color"], alpha=0.1, linewidth=0)


def label(panel: Any, title: str) -> None:
    from matplotlib.ticker import EngFormatter, PercentFormatter

    panel.set_xscale("log")
    panel.set_ylim(0, 1.02)
    panel.xaxis.set_major_formatter(EngFormatter(unit="B", sep=" "))
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    panel.set_xlabel("uploaded by all 20 clients so far (log scale)")
    panel.set_title(title, loc="left")
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.legend(loc="best", fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(METHODS), help="one setting")
    parser.add_argument("--show", action="store_true", help="run nothing")
    given = parser.parse_args()
    for setting in [given.only] if given.only else METHODS:
        if not given.show:
            make(setting)
        print(f"\n{setting}\n{table(setting)}")
    if all(map(found, METHODS)):
        print(f"\nat equal accuracy\n{at_equal_accuracy()}")
        draw(RESULTS / "accuracy_against_bytes.png")


if __name__ == "__main__":
    main()
