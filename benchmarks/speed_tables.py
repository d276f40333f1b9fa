"""Writes what the benchmarks of speed found into docs/results/speed.md and benchmarks/README.md, between their marks.

    python benchmarks/speed_tables.py

A number of these tables stands nowhere else than in the files of benchmarks/results. What has no file yet is "not measured".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PFL_TWO = "pfl 0.6.0, two processes"
#: Goal, file of results, where in it the figure is (nowhere: it has several), how it is written, command, minutes when idle.
GOALS: list[tuple[str, str, tuple[str, ...], str, str, str]] = [
    (
        "in-process, 500 clients: 1.10 x the careful loop",
        "engine",
        ("summary", "in-process", "over_careful"),
        "{:.2f}",
        "engine.py",
        "25",
    ),
    ("Ray, two actors: 0.58 x the careful loop", "engine", ("summary", "ray", "over_careful"), "{:.2f}", "engine.py", "25"),
    (
        "FedX's step: 1.05 x its careful loop",
        "fedx_step",
        ("over_careful", "ratio"),
        "{:.3f}",
        "fedx_step.py --only-careful",
        "2",
    ),
    *(
        (
            f"exchange of two peers, {name}: {goal} x the build before",
            "online_step",
            ("ratios", key),
            "{:.2f}",
            "online_step.py",
            "10",
        )
        for name, goal, key in (
            ("in-process", 0.35, "exchange, K = 2, in-process over before"),
            ("Ray", 0.4, "exchange, K = 2, ray over before"),
        )
    ),
    (
        *("DML of a small net in-process: 1.5 x two bare steps", "online_step"),
        *(("ratios", "DML of mlp, K = 2, in-process over 2 bare training steps"), "{:.2f}", "online_step.py", "10"),
    ),
    (
        *("first round on two workers: 1.2 x pfl's two processes", "start_workers"),
        *(("ratios", f"simulate / {PFL_TWO}"), "{:.2f}", "start.py --workers", "4"),
    ),
    (
        *("rounds of 200 clients on two workers: 0.85 x pfl's two processes", "engine-200"),
        *(("summary", "ray", "over_pfl_two"), "{:.2f}", f'engine.py --clients 200 --only careful ray "{PFL_TWO}"', "4"),
    ),
    ("many small clients at once: 0.3 and 0.6 x the bare loop", "together", (), "", "together.py", ""),
    *(
        (f"100 of 10,000 clients that own a net, over 100: {goal}", "many_clients", place, "{:.2f}", "many_clients.py", "10")
        for goal, place in (
            ("memory 1.2 x", ("ratios", "local, 10000 clients", "peak_megabytes")),
            ("seconds a round 1.1 x", ("ratios", "local, 10000 clients", "seconds_a_round")),
            ("bytes written a round 1.1 x", ("ratios", "local, 10000 clients", "megabytes_written_a_round")),
        )
    ),
    (
        *("100 of 100,000 clients: start in 3 s", "many_clients"),
        *(("runs", "fedavg, 100000 clients", "start_seconds"), "{:.2f} s", "many_clients.py", "10"),
    ),
    *(
        (
            f"evaluation, FedX table, {name}: 15 % of the time",
            "evaluation",
            ("runs", f"fedx, {key}", "share"),
            "{:.1%}",
            "evaluation.py",
            "9",
        )
        for name, key in (("in-process", "in-process"), ("Ray", "ray"))
    ),
    ("data-free, DENSE's server: 1.3 x the bare loop", "data_free", ("ratio",), "{:.2f}", "data_free.py", "2"),
    ("a table by sample id, FedCache: 5 % of a round", "sample_table", ("share",), "{:.1%}", "sample_table.py", "1"),
    *(
        (f"a cell's {what} over bare training, {cell}: 1.10 x", "overhead", ("cells", cell, key), "{:.2f}", "overhead.py", "15")
        for cell in ("FedX, 10 clients of 400 images", "FedAvg, 50 users of 50 images", "FedAvg, 10 clients of 30 images")
        for what, key in (("rounds", "rounds"), ("whole run", "cell"))
    ),
    ("two nodes over one (no goal)", "two_nodes", ("two nodes / one node",), "{:.2f}", "two_nodes.py", "4"),
]


def read(name: str) -> Any:
    """What a benchmark found, or nothing."""
    path, lines = RESULTS / f"{name}.json", RESULTS / f"{name}.jsonl"
    if lines.exists():
        return {"lines": [json.loads(line) for line in lines.read_text().splitlines()]}
    return json.loads(path.read_text()) if path.exists() else {}


def figure(found: Any, place: tuple[str, ...], written: str) -> str:
    """The figure at this place, and the least and the most of its turns, where these stand beside it."""
    around = found
    for key in place:
        around, found = found, found.get(key) if isinstance(found, dict) else None
    if found is None or found == {}:
        return "not measured"
    least_and_most = around.get(f"{place[-1]}_range") if place and isinstance(around, dict) else None
    return written.format(found) + (" ({} to {})".format(*map(written.format, least_and_most)) if least_and_most else "")


def several(name: str, found: Any) -> str:
    """The figures of a benchmark that has many: least and most of each net's ratios by processor time, or where they are."""
    if "lines" not in found:
        return f"see `results/{name}.json`"
    ratios: dict[str, list[float]] = {}
    for line in found["lines"]:
        ratios.setdefault(line["net"], []).append(line[f"{name} over bare, cpu"][0])
    return ", ".join(f"{net} {min(each):.2f} to {max(each):.2f}" for net, each in ratios.items())


def hardware(found: Any) -> str:
    """The machine, as the file has it."""
    machine = found.get("over_careful", found).get("machine") or found.get("machine") or {}
    if not machine:
        return ""
    return f"{machine.get('cores')} cores {machine.get('cpu', '')}, load {machine.get('load', 0):.1f}".replace(" ,", ",")


def goals() -> list[str]:
    """Goal, reached, command, minutes, hardware."""
    lines = ["| goal, at most | reached | `python benchmarks/...` | minutes | hardware |", "|---|---|---|---|---|"]
    for goal, name, place, written, command, minutes in GOALS:
        found = read(name)
        reached = figure(found, place, written) if place or not found else several(name, found)
        machine = "" if reached == "not measured" else hardware(found)
        lines.append(f"| {goal} | {reached} | `{command}` | {minutes} | {machine} |")
    return lines


def engine() -> list[str]:
    """Every contender of engine.py."""
    found = read("engine").get("summary", {})
    if not found:
        return ["Not measured."]
    lines = [
        "| | seconds a round | over the careful loop | over the plain loop | first round after (s) |",
        "|---|---|---|---|---|",
    ]
    for name, row in found.items():
        cells = [figure(row, (key,), "{:.2f}") for key in ("seconds_a_round", "over_careful", "over_plain")]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['first_round_since_start']:.1f} |")
    return lines


def turn() -> list[str]:
    """Where a client's turn goes, by turn.py."""
    found = read("turn").get("microseconds", {})
    if not found:
        return ["Not measured."]
    lines = ["| microseconds a client | before | now |", "|---|---|---|"]
    return lines + [f"| {part} | {found['before'].get(part, 0.0):.0f} | {own:.0f} |" for part, own in found["now"].items()]


def fedx() -> list[str]:
    """The step over the careful loop, and images a second."""
    found = read("fedx_step")
    speeds, costs = found.get("images_a_second", {}), found.get("cost_an_image", {})
    lines = [f"FedX with SimCLR over the careful loop: {figure(found, ('over_careful', 'ratio'), '{:.3f}')}.", ""]
    lines += ["| images a second | alone | with FedX | FedX costs |", "|---|---|---|---|"]
    for base in (name for name in speeds if not name.startswith("FedX")):
        pair = f"FedX with {base}"
        lines.append(f"| {base} | {speeds[base]:.0f} | {speeds[pair]:.0f} | {costs[f'{pair} over {base}']:.2f} x |")
    return lines


def evaluation() -> list[str]:
    """Shares of time, and the parts of one evaluation of FedX."""
    runs = read("evaluation").get("runs", {})
    if not runs:
        return ["Not measured."]
    lines = ["| | share of the time | of an evaluated round | seconds of an evaluation |", "|---|---|---|---|"]
    for name, run in runs.items():
        shares = f"{run['share']:.1%} | {run['share_of_an_evaluated_round']:.1%}"
        lines.append(f"| {name} | {shares} | {run['evaluation_seconds']:.1f} |")
    name, run = next(iter(runs.items()))
    return [
        *lines,
        "",
        f"| {name} | seconds |",
        "|---|---|",
        *(f"| {part} | {value} |" for part, value in run["parts"].items()),
    ]


def vectors() -> list[str]:
    """One ratio."""
    found = read("vectors")
    if "careful" not in found["pairs"][0]:  # of an earlier loop
        return ["Not measured."]
    between = f"{found['least']:.1f} to {found['most']:.1f}"
    return [f"A round takes {found['ratio']:.1f} times the careful loop ({len(found['pairs'])} pairs, {between})."]


BLOCKS: dict[str, Callable[[], list[str]]] = {
    "goals": goals,
    "engine": engine,
    "fedx": fedx,
    "evaluation": evaluation,
    "vectors": vectors,
    "turn": turn,
}


def main() -> None:
    for path in (ROOT / "docs" / "results" / "speed.md", ROOT / "benchmarks" / "README.md"):
        text = path.read_text()
        for name, lines in BLOCKS.items():
            block = f"<!-- {name} -->\n" + "\n".join(lines()) + "\n<!-- end -->"
            text = re.sub(rf"<!-- {name} -->\n.*?<!-- end -->", lambda _, block=block: block, text, flags=re.DOTALL)
        path.write_text(text)


if __name__ == "__main__":
    main()
