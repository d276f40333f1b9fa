"""fedkd beside EasyFL's own code without labels: FedBYOL, FedU and FedEMA on equal images, parts, nets and settings.

    git clone https://github.com/EasyFL-AI/EasyFL PATH && git -C PATH checkout 8a9554ed71b0660ee70dab3d33cdcdba55dbd29b
    python benchmarks/side_by_side_unsupervised.py --code PATH --cifar10 DIR   # the cells that are not there yet, then tables
    python benchmarks/side_by_side_unsupervised.py --code PATH --cifar10 DIR --only fedu --seeds 0
    python benchmarks/side_by_side_unsupervised.py --table                     # only print what is there, and write the page

DIR holds CIFAR-10 as train.parquet and test.parquet; without it the hub is asked. Nothing of EasyFL is here: its code is read
from a copy of your own, and runs in an environment of its own, which is made once (peers/venvs.py). What both are run with
stands in peers/fedssl.py, how theirs is started in peers/with_easyfl.py.

"EasyFL" is its code as it is, with its heads, views and order of samples. "EasyFL, changed" gets fedkd's, and the edits of
peers/fedssl.py: where both compute the same, both curves are the same but for rounding. "EasyFL, own target" has only the edit
that gives a client a target net in its first training. "fedkd, nudged" is fedkd with its rate one float32 larger: how far two
runs part that differ by rounding alone. All encoders are judged by fedkd's linear probe, after each round. A cell takes one to
two minutes of one core of an AMD EPYC.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cells import fill, lines_of, put_tables
from given import cifar10_folder, positive
from peers import fedssl as rival

RESULTS = Path(__file__).parent / "results" / "side_by_side_unsupervised.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "results" / "side_by_side_unsupervised.md"
NUDGED = "fedkd, nudged"
CODES = ("fedkd", NUDGED, *rival.CODES)
#: Where their code is also run with its own views; and the code that computes what fedkd does.
WHOLE, SAME = "two epochs a round", f"{rival.NAME}, changed"


@dataclass(frozen=True)
class Cell:
    """One run of one code."""

    settings: str
    code: str
    method: str
    seed: int
    copy: str = field(default="", compare=False)
    cifar10: str = field(default="", compare=False)

    def setting(self) -> dict[str, Any]:
        """What a line is made with: another setting, another line."""
        return {"name": self.settings, **rival.SETTINGS[self.settings]}


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results."""
    import torch

    from fedkd.results.environment import cpu_model

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        edits = rival.CODES.get(cell.code, ())
        images, same = Path(name) / "images.npz", (cell.setting(), cell.seed)
        rival.write_images(cell.cifar10, images, *same)
        if cell.code == "fedkd":
            result = rival.run_ours(images, cell.method, *same)
        elif cell.code == NUDGED:
            result = rival.run_ours(images, cell.method, nudged(cell.setting()), cell.seed)
        else:
            result = rival.run_theirs(images, cell.method, *same, cell.copy, edits)
    return {
        "code": cell.code,
        "method": cell.method,
        "seed": cell.seed,
        "accuracy": result["curve"][-1],
        **result,
        "commit": rival.COMMIT,
        "changes": list(dict.fromkeys(edit.why for edit in edits)),
        "cpu": cpu_model(),
        "setting": cell.setting(),
    }


def nudged(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The setting with the next larger rate that a float32 can hold."""
    import numpy as np

    lr = float(np.nextafter(np.float32(setting["train"]["lr"]), np.float32(1)))
    return {**setting, "train": {**setting["train"], "lr": lr}}


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    return f"{line['setting']['name']}, {line['method']}, seed {line['seed']}, {line['code']}: {line['accuracy']:.4f}"


def there() -> dict[Cell, dict[str, Any]]:
    """The lines that are written already."""
    settings = {name: {"name": name, **rival.SETTINGS[name]} for name in rival.SETTINGS}
    return {
        Cell(name, line["code"], line["method"], line["seed"]): line
        for name, setting in settings.items()
        for line in lines_of(RESULTS, setting)
    }


def gap(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """The largest difference between two curves, in points."""
    return max(100 * abs(one - other) for one, other in zip(ours["curve"], theirs["curve"], strict=True))


def table(found: Mapping[Cell, Mapping[str, Any]], settings: str) -> str:
    """A row a method, as Markdown: 95 % intervals, differences seed by seed; codes that were run in this setting."""
    from fedkd.results.statistics import mean_interval, percent

    of_it = {cell: line for cell, line in found.items() if cell.settings == settings}
    first = {cell.seed: line["curve"][0] for cell, line in of_it.items()}
    rivals = [code for code in CODES[1:] if any(cell.code == code for cell in of_it)]
    heads = [
        "",
        "fedkd",
        *(f"{code}{what}" for code in rivals for what in ("", ": fedkd less it, points", ": largest in any round")),
    ]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    rows += [f"| before round 1 | {percent([*first.values()])} |{'  |' * (len(heads) - 2)}"] if first else []
    for method in rival.METHODS:
        by_code = {
            code: {cell.seed: line for cell, line in of_it.items() if (cell.code, cell.method) == (code, method)}
            for code in CODES
        }
        ours, texts = by_code["fedkd"], []
        for code in rivals:
            theirs = by_code[code]
            if not (seeds := sorted(ours.keys() & theirs.keys())):
                texts += ["", "", ""]
                continue
            mean, half = mean_interval([100 * (ours[seed]["accuracy"] - theirs[seed]["accuracy"]) for seed in seeds])
            points = f"{round(float(mean), 1) + 0.0:+.1f}"  # + 0.0: no "-0.0"
            texts.append(percent([theirs[seed]["accuracy"] for seed in seeds]))
            texts.append(f"{points} ± {half:.1f}" if len(seeds) > 1 else points)
            texts.append(f"{max(gap(ours[seed], theirs[seed]) for seed in seeds):.2f}")
        if ours:
            rows.append(f"| {' | '.join([method, percent([line['accuracy'] for line in ours.values()]), *texts])} |")
    return "\n".join(rows)


def write_page(found: Mapping[Cell, Mapping[str, Any]], page: Path) -> None:
    """Put each setting's table into the page."""
    put_tables(page, {name: table(found, name) for name in rival.SETTINGS})


def why_not(copy: str) -> str:
    """What is wrong with the user's copy of the other code, and the cure; empty if nothing is."""
    get = f"git clone {rival.URL} PATH && git -C PATH checkout {rival.COMMIT}, then --code PATH"
    if not copy:
        return f"--code: where your copy of {rival.NAME} lies is not said: {get}"
    asked = subprocess.run(
        ["git", "-C", copy, "cat-file", "-e", f"{rival.COMMIT}^{{commit}}"], capture_output=True, check=False
    )
    return f"--code {copy}: there is no git copy of {rival.NAME} that has this commit: {get}" if asked.returncode else ""


def cells_of(
    settings: Sequence[str],
    codes: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    copy: str = "",
    cifar10: str = "",
) -> list[Cell]:
    """All runs, seed by seed; their code with its own views only where it is run as people run it."""
    return [
        Cell(name, code, method, seed, copy, cifar10)
        for seed in seeds
        for name in settings
        for code in codes
        for method in methods
        if name == WHOLE or code in ("fedkd", NUDGED, SAME)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", default="", metavar="PATH", help=f"your copy of {rival.NAME}")
    parser.add_argument(
        "--cifar10", type=cifar10_folder, default="", metavar="DIR", help="train.parquet and test.parquet; default: the hub"
    )
    parser.add_argument("--settings", nargs="+", default=[*rival.SETTINGS], metavar="NAME", choices=[*rival.SETTINGS])
    parser.add_argument("--codes", nargs="+", default=[*CODES], metavar="NAME", choices=[*CODES])
    parser.add_argument("--only", nargs="+", default=[*rival.METHODS], metavar="METHOD", choices=[*rival.METHODS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=positive, default=1)
    parser.add_argument("--table", action="store_true", help="run nothing; write the page's table")
    given = parser.parse_args()
    if not given.table:
        if wrong := why_not(given.code):
            parser.exit(2, f"{wrong}\n")
        done, cells = there(), cells_of(given.settings, given.codes, given.only, given.seeds, given.code, given.cifar10)
        fill([cell for cell in cells if cell not in done], run, RESULTS, describe=describe, workers=given.workers)
    for name in rival.SETTINGS:
        print(f"{name}\n\n{table(there(), name)}\n")
    if given.table:
        write_page(there(), PAGE)


if __name__ == "__main__":
    main()
