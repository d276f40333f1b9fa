"""fedkd beside another library's own code: the same method, data, nets, first weights and settings, one thread each.

    git clone https://github.com/TsingZ0/HtFLlib PATH && git -C PATH checkout e959261d906f40377410bc4d9d13ba3f6af56782
    python benchmarks/side_by_side.py --code PATH    # the cells not yet in results/side_by_side.jsonl, then the tables
    python benchmarks/side_by_side.py --code PATH --settings "one batch" --only fd --seeds 0
    python benchmarks/side_by_side.py --table        # only print what is there, and write it into the page

Nothing of the other library is here: its code and data are read from a copy of your own, of the commit named above. What both
are run with stands in peers/htfllib.py, and how theirs is started in peers/with_htfllib.py.

In the setting "one batch" a client's samples are one batch, so that their order plays no part: where both compute the same,
both curves are the same but for rounding. A method of which they are not is run once more with small edits of their code
("HtFLlib, changed"), which say what the difference was. "Batches of ten" is as people run it, and theirs is left as it is.

About a minute a method and seed of "batches of ten" for both codes, half of it of "one batch"; one core of an AMD EPYC.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cells import fill, lines_of, put_tables
from given import positive
from peers import htfllib as rival

RESULTS = Path(__file__).parent / "results" / "side_by_side.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "results" / "side_by_side.md"
CHANGED = f"{rival.NAME}, changed"
#: Before it nothing is scored alike: FedProto and FedTGP have no prototypes, and score 0 there.
FIRST_ROUND = 1


@dataclass(frozen=True)
class Cell:
    """One run of one code."""

    settings: str
    code: str
    method: str
    seed: int
    copy: str = ""

    def setting(self) -> dict[str, Any]:
        """What a line is made with: another setting, another line."""
        return {"name": self.settings, **rival.SETTINGS[self.settings]}


def run(cell: Cell) -> dict[str, Any]:
    """One line of the results."""
    from fedkd.results.environment import cpu_model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rival.unpack(Path(cell.copy), folder)
        rival.write_partition(folder, cell.setting(), cell.seed)
        if cell.code == "fedkd":
            result = rival.run_ours(folder, cell.method, cell.setting(), cell.seed)
        else:
            result = rival.run_theirs(folder, cell.method, cell.setting(), cell.seed, changed=cell.code == CHANGED)
    return {
        "code": cell.code,
        "method": cell.method,
        "seed": cell.seed,
        "accuracy": result["curve"][-1],
        **result,
        "commit": rival.COMMIT,
        "changes": [edit.why for edit in rival.EDITS[cell.method]] if cell.code == CHANGED else [],
        "cpu": cpu_model(),
        "setting": cell.setting(),
    }


def describe(line: Mapping[str, Any]) -> str:
    """What came out of a cell."""
    return f"{line['setting']['name']}, {line['method']}, seed {line['seed']}, {line['code']}: {line['accuracy']:.4f}"


def there(cells: Sequence[Cell]) -> dict[Cell, dict[str, Any]]:
    """The lines of these cells that are written already."""
    found = {}
    for cell in cells:
        of_it = (cell.code, cell.method, cell.seed)
        lines = [x for x in lines_of(RESULTS, cell.setting()) if (x["code"], x["method"], x["seed"]) == of_it]
        if lines:
            found[cell] = lines[-1]
    return found


def cells_of(settings: Sequence[str], methods: Sequence[str], seeds: Sequence[int], copy: str = "") -> list[Cell]:
    """All runs, seed by seed; those with edited code in "one batch" only."""
    cells = []
    for seed in seeds:
        for setting in settings:
            for method in methods:
                codes = ["fedkd", rival.NAME]
                if setting == "one batch" and method in rival.EDITS:
                    codes.append(CHANGED)
                cells += [Cell(setting, code, method, seed, copy) for code in codes]
    return cells


def gap(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """The largest difference between two curves, in points."""
    pairs = zip(ours["curve"][FIRST_ROUND:], theirs["curve"][FIRST_ROUND:], strict=True)
    return max(100 * abs(one - other) for one, other in pairs)


def write_page(found: Mapping[Cell, Mapping[str, Any]], page: Path) -> None:
    """Put each setting's table into the page."""
    put_tables(page, {name: table(found, name) for name in rival.SETTINGS})


def table(found: Mapping[Cell, Mapping[str, Any]], setting: str) -> str:
    """A row a method, as Markdown: accuracy, the difference seed by seed, the largest in any round; 95 % intervals."""
    from fedkd.results.statistics import mean_interval, percent

    lines_by = {
        (cell.method, cell.code): {line["seed"]: line for other, line in found.items() if key(other) == key(cell)}
        for cell in found
        if cell.settings == setting
    }
    edited = any(code == CHANGED for _, code in lines_by)
    heads = ["", "fedkd", rival.NAME, "fedkd less theirs, points", "largest in any round"]
    heads += [f"largest, {CHANGED}"] * edited + ["s, fedkd", f"s, {rival.NAME}"]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for method in rival.METHODS:
        ours, theirs = (lines_by.get((method, code), {}) for code in ("fedkd", rival.NAME))
        changed = lines_by.get((method, CHANGED), {})
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            continue
        mean, half = mean_interval([100 * (ours[seed]["accuracy"] - theirs[seed]["accuracy"]) for seed in seeds])
        points = f"{round(float(mean), 1) + 0.0:+.1f}"  # + 0.0: no "-0.0"
        texts = [
            method,
            percent([ours[seed]["accuracy"] for seed in seeds]),
            percent([theirs[seed]["accuracy"] for seed in seeds])
            + ", diverged" * any(theirs[k].get("diverged") for k in seeds),
            f"{points} ± {half:.1f}" if len(seeds) > 1 else points,
            f"{max(gap(ours[seed], theirs[seed]) for seed in seeds):.2f}",
        ]
        if edited:
            both = [seed for seed in seeds if seed in changed]
            texts.append(f"{max(gap(ours[seed], changed[seed]) for seed in both):.2f}" if both else "")
        texts += [f"{sum(lines[seed]['seconds'] for seed in seeds) / len(seeds):.0f}" for lines in (ours, theirs)]
        rows.append(f"| {' | '.join(texts)} |")
    return "\n".join(rows)


def key(cell: Cell) -> tuple[str, str, str]:
    """What a cell is but its seed."""
    return cell.settings, cell.method, cell.code


def why_not(copy: str) -> str:
    """What is wrong with the user's copy of the other code, and the cure; empty if nothing is."""
    get = f"git clone {rival.URL} PATH && git -C PATH checkout {rival.COMMIT}, then --code PATH"
    if not copy:
        return f"--code: where your copy of {rival.NAME} lies is not said: {get}"
    asked = subprocess.run(["git", "-C", copy, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if asked.returncode:
        return f"--code {copy}: there is no git copy of {rival.NAME}: {get}"
    if (head := asked.stdout.strip()) != rival.COMMIT:
        return f"--code {copy}: its commit is {head[:10]} and not {rival.COMMIT[:10]}: git -C {copy} checkout {rival.COMMIT}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", default="", metavar="PATH", help=f"your copy of {rival.NAME}")
    parser.add_argument("--settings", nargs="+", default=[*rival.SETTINGS], metavar="NAME", choices=[*rival.SETTINGS])
    parser.add_argument("--only", nargs="+", default=[*rival.METHODS], metavar="METHOD", choices=[*rival.METHODS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=positive, default=1)
    parser.add_argument("--table", action="store_true", help="run nothing; write the page's tables")
    given = parser.parse_args()
    if not given.table:
        if wrong := why_not(given.code):
            parser.exit(2, f"{wrong}\n")
        cells = cells_of(given.settings, given.only, given.seeds, given.code)
        done = there(cells)
        fill([cell for cell in cells if cell not in done], run, RESULTS, describe=describe, workers=given.workers)
    found = there(cells_of([*rival.SETTINGS], [*rival.METHODS], given.seeds))
    for name in rival.SETTINGS:
        print(f"{name}\n\n{table(found, name)}\n")
    if given.table:
        write_page(found, PAGE)


if __name__ == "__main__":
    main()
