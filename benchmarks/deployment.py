"""Seconds of an exchange in a deployment: one SuperLink and three SuperNodes on loopback, FedMD on digits with mixed nets.

    git worktree add ../before 632a5e9
    python benchmarks/deployment.py --before ../before        # half an hour on two idle cores
    python benchmarks/deployment.py --where                   # then: where time goes, and an exchange of 46 MB

Contenders take turns, ``--repeats`` times: the build of another worktree, this one, and Flower's floor, a ClientApp that says
"here" and nothing else (a ServerApp sends it an empty message and waits with Flower's ``send_and_receive``), each on Flower's
SuperNodes as they come, and the last two on ``fedkd supernode``. A round of FedMD is two exchanges, of the floor one; the
first round is left out, as apps are installed in it, and the last, as clients are evaluated in it. One torch thread a program.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "engine"))  # how the tests start and stop programs

from programs import Programs, flower_environment, free_ports, listens  # noqa: E402

from fedkd.results.environment import cores, cpu_model, versions  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "deployment.json"
BIN = Path(sys.executable).parent
NODES = 3
FEDMD = {
    "strategy": "fedmd",
    "nets": {"mlp": 0.5, "cnn": 0.5},
    "net_options": {"cnn": {"channels": (8, 16), "hidden": 32}},
    "data": {"clients": NODES, "partition": "iid", "public": 200},
}
FEDX = {
    "strategy": "fedx",
    "nets": "resnet18",
    "train": {"batch_size": 16, "steps": 1},
    "data": {"clients": NODES, "partition": "iid", "train_limit": 96, "test_limit": 50},
}
#: The whole app whose exchange is Flower's own: nothing in it but Flower.
FLOOR = """
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.query("here")
def here(message, context):
    return Message(RecordDict({"here": ConfigRecord({"node": str(context.node_id)})}), reply_to=message)


@server.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < context.run_config["data.clients"]:
        time.sleep(0.5)
    seconds = []
    for round in range(context.run_config["rounds"] + 1):
        start = time.perf_counter()
        asked = [Message(RecordDict(), node, "query.here", group_id=str(round)) for node in nodes]
        replies = list(grid.send_and_receive(asked, timeout=120))
        assert len(replies) == len(nodes) and not any(reply.has_error() for reply in replies)
        seconds.append(time.perf_counter() - start)
    Path(context.run_config["out"]).mkdir()
    rows = "".join(f'{{"round": {round}, "seconds": {each}}}\\n' for round, each in enumerate(seconds))
    Path(context.run_config["out"], "metrics.jsonl").write_text(rows)
"""
#: name -> the tree (empty: this one), what the app is, and the program that the SuperNodes are.
CONTENDERS = {
    "floor": ("", "floor", "flower-supernode"),
    "before": ("before", "fedmd", "flower-supernode"),
    "ours": ("", "fedmd", "flower-supernode"),
    "ours, warm": ("", "fedmd", "fedkd supernode"),
    "floor, warm": ("", "floor", "fedkd supernode"),
}


def write_app(folder: Path, kind: str, tree: Path, rounds: int) -> None:
    """A Flower app: the floor's, or an experiment's with all its keys, as the tree's own code has them."""
    head, _, _ = (ROOT / "deployment" / "pyproject.toml").read_text().partition("resume = false\n")
    experiment = {**(FEDX if kind == "fedx" else FEDMD), "rounds": rounds, "evaluate_every": rounds, "timeout": 600.0}
    program = "import json, sys; from fedkd import Experiment; "
    program += "print(json.dumps(Experiment(**json.loads(sys.argv[1])).to_flat()))"
    told = subprocess.run(
        [sys.executable, "-c", program, json.dumps(experiment)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        check=True,
    )
    flat = json.loads(told.stdout)
    if kind == "floor":
        (folder / "floor.py").write_text(FLOOR)
        head = head.replace("fedkd.app:", "floor:")
        flat = {"rounds": rounds, "data.clients": NODES}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in flat.items())
    (folder / "pyproject.toml").write_text(f"{head}resume = false\n{lines}\n")


def seconds_of_rounds(
    kind: str, tree: Path, supernode: str, rounds: int, on_look: Callable[[int], None] = lambda done: None
) -> list[float]:
    """Seconds of each round but those before the second; ``on_look`` is told how many rows there are, ten times a second."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        app, home = folder / "app", folder / "flwr"
        app.mkdir()
        home.mkdir()
        write_app(app, kind, tree, rounds)
        link, *ports = free_ports(1 + NODES)
        (home / "config.toml").write_text(f'[superlink.loopback]\naddress = "127.0.0.1:{link}"\ninsecure = true\n')
        environment = flower_environment(home) | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        environment.pop("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", None)  # as Flower comes
        node = [f"{BIN}/flower-supernode"] if supernode == "flower-supernode" else [f"{BIN}/fedkd", "supernode"]
        with Programs(folder, environment) as programs:
            programs.start(
                *("superlink", f"{BIN}/flower-superlink", "--insecure", "--disable-runtime-dependency-installation"),
                *("--host", "127.0.0.1", "--port", str(link)),
            )
            programs.wait_until("the SuperLink listens", lambda: listens(link), 120)
            for client, port in enumerate(ports):
                programs.start(
                    *(f"supernode-{client}", *node, "--insecure", "--superlink", f"127.0.0.1:{link}"),
                    *("--host", "127.0.0.1", "--port", str(port), "--node-config", f"partition-id={client}"),
                )
            config = f"out='{folder / 'run'}'"
            flwr = programs.start("flwr", f"{BIN}/flwr", "run", str(app), "loopback", "--stream", "--run-config", config)
            written = folder / "run" / "metrics.jsonl"

            def has_ended() -> bool:
                on_look(len(written.read_bytes().splitlines()) - 1 if written.exists() else -1)
                return flwr.process.poll() is not None

            programs.wait_until("flwr run has ended", has_ended, 900, ends=flwr)
            if flwr.process.returncode or not written.exists():
                raise SystemExit(programs.report("flwr run failed"))
        rows = [json.loads(line) for line in written.read_text().splitlines()]
    exchanges = 2 if kind == "fedmd" else 1
    return [row["seconds"] / exchanges for row in rows if 2 <= row["round"] < rounds]


def seconds_of_imports() -> dict[str, float]:
    """What the process that Flower starts for a message spends before it begins, in seconds: medians of five."""
    programs = {
        "python": "pass",
        "flower": "from flwr.supernode.cli import flwr_clientapp",
        "flower, torch and fedkd": "from flwr.supernode.cli import flwr_clientapp; import fedkd.app",
    }

    def once(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        return time.perf_counter() - start

    taken = {name: [] for name in programs}  # type: dict[str, list[float]]
    for _ in range(5):
        for name, code in programs.items():
            taken[name].append(once(code))
    return {name: round(statistics.median(values), 2) for name, values in taken.items()}


def processor_seconds(kind: str, supernode: str, rounds: int = 10) -> dict[str, float]:
    """Seconds of processor time that each program spends on an exchange, all of its processes together; from Linux' /proc."""
    programs = ("flower-superlink", "flwr-serverapp", "grids.supernode.worker", "grids.supernode.executor", "supernode")

    def spent() -> dict[str, float]:
        taken: dict[str, float] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
                name = next((name for name in programs if name in command), "")
                taken[name] = taken.get(name, 0.0) + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        return taken

    seen: list[tuple[int, dict[str, float]]] = []
    seconds_of_rounds(kind, ROOT, supernode, rounds, on_look=lambda done: seen.append((done, spent())))
    first, last = (next(each for each in order if 2 <= each[0] < rounds) for order in (seen, seen[::-1]))
    exchanges = (last[0] - first[0]) * (2 if kind == "fedmd" else 1)
    return {name: round((last[1].get(name, 0) - first[1].get(name, 0)) / exchanges, 3) for name in programs}


def commit_of(tree: Path | None) -> str:
    """The commit of a worktree; empty without one."""
    told = (
        subprocess.run(["git", "-C", str(tree), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        if tree
        else None
    )
    return told.stdout.strip() if told else ""


def summary(values: list[float]) -> Mapping[str, Any]:
    """Their median, and the borders of the middle half."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(middle, 2), "middle half": [round(low, 2), round(high, 2)], "rounds": len(values)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a worktree of an earlier commit")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[*CONTENDERS])
    parser.add_argument(
        "--where",
        action="store_true",
        help="only add to the results where time goes, and an exchange of FedX with ResNet-18, 46 MB",
    )
    asked = parser.parse_args()
    if asked.where:
        result = json.loads(RESULTS.read_text())
        result["processor seconds of an exchange, by program"] = {
            f"{kind} on {supernode}": processor_seconds(kind, supernode) for kind, supernode in (("fedmd", "fedkd supernode"),)
        }
        result["seconds until a process can begin"] = seconds_of_imports()
        result["seconds of a FedX exchange, ResNet-18"] = {
            supernode: [round(each, 1) for each in seconds_of_rounds("fedx", ROOT, supernode, 5)]
            for supernode in ("flower-supernode", "fedkd supernode")
        }
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        return print(json.dumps(result, indent=1))
    taken: dict[str, list[float]] = {}
    for _ in range(asked.repeats):
        for name in asked.only:
            tree, kind, supernode = CONTENDERS[name]
            if tree and not asked.before:
                continue
            found = seconds_of_rounds(kind, asked.before.resolve() if tree else ROOT, supernode, asked.rounds)
            print(f"{name}: {' '.join(f'{each:.2f}' for each in found)}", flush=True)
            taken.setdefault(name, []).extend(found)
    result: dict[str, Any] = {
        "command": f"deployment.py --before B --rounds {asked.rounds} --repeats {asked.repeats}, then deployment.py --where",
        "before": commit_of(asked.before),
        "hardware": f"{cpu_model()}, {cores()} cores",
        "versions": versions(),
        "nodes": NODES,
        "seconds of an exchange": {name: summary(values) for name, values in taken.items()},
        "seconds until a process can begin": seconds_of_imports(),
    }
    medians = {name: statistics.median(values) for name, values in taken.items()}
    for base in ("before", "floor"):
        if base in medians:
            ratios = {name: round(value / medians[base], 3) for name, value in medians.items() if name != base}
            result[f"ratio to {base}"] = ratios
    print(json.dumps(result, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
