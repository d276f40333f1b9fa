"""Our engines against a careful PyTorch loop, and against other libraries: seconds a round, from one run, as ratios.

    python benchmarks/engine.py                            # 500 clients of 64 images, all take part: about 25 minutes
    python benchmarks/engine.py --only careful in-process  # some contenders; two minutes
    python benchmarks/engine.py --clients 200 --only ray "pfl 0.6.0, two processes"
    python benchmarks/engine.py --scale                    # 100 of 10,000 clients against 100 of 100; two minutes

Every contender runs in processes of its own, in turn, and does so three times. All train the same net (52,138 parameters) on
the same images of Fashion-MNIST, one epoch a round in batches of 32 with SGD, in one torch thread a process, and average the
weights. Of a run the median of the rounds after the first counts; a ratio is that to the careful loop's of the same turn; the
median of the turns counts, and its interval is all of them. Where others use the machine too, more turns say more, --repeats 7.
The first round is timed from the start of the process. Results are kept as they come: the same command goes on where one was
cut short (--fresh starts anew). Other libraries are installed once, each in an environment of its own (peers/venvs.py).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "engine.json"
sys.path.insert(0, str(HERE / "peers"))
from task import BATCH, DECAY, IMAGES, LR, MOMENTUM, Rounds  # noqa: E402
from venvs import CACHE, PEERS  # noqa: E402

YARDSTICK, ENGINES = "careful", ("in-process", "ray", "flower")
CONTENDERS = [YARDSTICK, "plain", *ENGINES, *PEERS]
#: Ratio in the results -> to whom.
BESIDE = {"over_careful": YARDSTICK, "over_plain": "plain", "over_flower": "flower", "over_pfl_two": "pfl 0.6.0, two processes"}


def experiment(clients: int, rounds: int, **changes: Any) -> Any:
    from fedkd import Experiment

    data = {"source": "fashion_mnist", "train_limit": clients * IMAGES, "clients": clients, "partition": "iid"}
    train = {"batch_size": BATCH, "lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY}
    settings = {"strategy": "fedavg", "rounds": rounds, "nets": "cnn", "train": train, "evaluate_every": 10**6}
    settings |= {"evaluate_clients": 0, "data": data | {"client_test": 0.0}}
    return Experiment(**{**settings, **changes})


def stopwatch() -> Any:
    """Prints what each round costs, the framework's own time too."""
    rounds: list[Rounds] = []

    def on_round(row: dict[str, Any]) -> None:
        if row["round"]:
            rounds[0].done()
        else:
            rounds.append(Rounds())

    return on_round


def ours(engine: str, clients: int, rounds: int) -> None:
    from fedkd import simulate

    # The last round is evaluated, so it is left out of the figures: run one more.
    simulate(experiment(clients, rounds + 1), engine, on_round=stopwatch())


def flower(clients: int, rounds: int) -> None:
    """The same apps in Flower's own simulation (deprecated there, and without a replacement that runs in a script)."""
    import logging

    from flwr.app import Context
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    from fedkd.app import client_app, server_app

    logging.getLogger("flwr").setLevel(logging.ERROR)
    config = experiment(clients, rounds + 1).to_flat()
    server, outer, inner = server_app(on_round=stopwatch()), ServerApp(), client_app()

    @outer.main()
    def main(grid: Grid, context: Context) -> None:
        server(grid, Context(context.run_id, context.node_id, context.node_config, context.state, config))

    app = ClientApp()

    def handle(message: Any, context: Context) -> Any:  # Flower's simulation has no run-config of its own
        mine = Context(context.run_id, context.node_id, context.node_config, context.state, config)
        reply = inner(message, mine)
        context.state = mine.state
        return reply

    for register in (app.train(), app.evaluate(), app.query("join")):
        register(handle)
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(outer, app, clients, backend_config=resources)


def scale(clients: int, rounds: int) -> None:
    """Many clients of which 100 take part: seconds a round, and the process's memory after each."""
    from fedkd import simulate

    def on_round(row: dict[str, Any]) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        print(json.dumps({"round": row["round"], "seconds": row["seconds"], "megabytes": megabytes}), flush=True)

    data = {"source": "fashion_mnist", "clients": clients, "partition": "iid", "client_test": 0.0}
    data |= {"train_limit": 6 * clients if clients > 1000 else 600}
    simulate(experiment(clients, rounds, participation=100 / clients, data=data), "in-process", on_round=on_round)


def write_data(cache: Path, clients: int) -> Path:
    """The images that the loops and the other libraries read: those of as many clients, and the test's."""
    import numpy as np

    path = cache / f"fashion_mnist-{clients}.npz"
    if not path.exists():
        from fedkd.data import load_source

        source = load_source("fashion_mnist")
        arrays = {"images": source.train_inputs[: clients * IMAGES], "labels": source.train_labels[: clients * IMAGES]}
        arrays |= {"test_images": source.test_inputs, "test_labels": source.test_labels}
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    return path


def command_of(contender: str, given: argparse.Namespace) -> list[str]:
    """The process that trains this way."""
    if contender in ENGINES:
        return [sys.executable, __file__, "--contender", contender, str(given.clients), str(given.rounds)]
    start = PEERS[contender].command(given.cache) if contender in PEERS else [sys.executable, f"{HERE}/peers/{contender}.py"]
    return [*start, str(write_data(given.cache, given.clients)), str(given.clients), str(given.rounds)]


def run(command: list[str]) -> list[dict[str, float]]:
    """The lines of JSON that a process prints, each with its seconds since the process was started."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "TQDM_DISABLE": "1",
    }
    if command[0] != sys.executable:  # it has packages of its own
        environment.pop("PYTHONPATH", None)
    began, rows = time.perf_counter(), []
    log = Path(os.environ.get("TMPDIR", "/tmp")) / f"fedkd-benchmark-{os.getpid()}.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                rows.append({**json.loads(line), "since_start": time.perf_counter() - began})
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: {log.read_text()[-2000:]}")
    log.unlink()
    return rows


def figures(rows: list[dict[str, float]], rounds: int) -> dict[str, float]:
    """What counts of one run."""
    later = [row for row in rows if 2 <= row.get("round", 0) <= rounds]
    found = {"seconds_a_round": statistics.median(row["seconds"] for row in later)}
    found["processor_a_round"] = statistics.median(row["processor"] for row in later)  # of the process that sums
    found["first_round_since_start"] = next(row["since_start"] for row in rows if row.get("round") == 1)
    if "test_loss" in rows[-1]:
        found["test_loss"] = rows[-1]["test_loss"]
    return found


def measured(given: argparse.Namespace, kept: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """Contender -> figures of each of its turns; each is written as it comes."""
    turns: dict[str, list[dict[str, float]]] = kept.setdefault("turns", {})
    for repeat in range(given.repeats):
        for contender in given.only:
            done = turns.setdefault(contender, [])
            if len(done) <= repeat:
                done.append(figures(run(command_of(contender, given)), given.rounds))
                given.results.write_text(json.dumps(kept, indent=1) + "\n")
            seconds, first = done[repeat]["seconds_a_round"], done[repeat]["first_round_since_start"]
            print(
                f"  {contender} ({repeat + 1}/{given.repeats}): {seconds:.2f} s a round, first after {first:.1f} s", flush=True
            )
    return turns


def summary(turns: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Medians of the turns, and of the ratios to another's same turn, with the least and the most of these."""
    found: dict[str, dict[str, Any]] = {}
    for contender, mine in turns.items():
        found[contender] = {key: statistics.median(turn[key] for turn in mine) for key in mine[0]}
        for name, other in BESIDE.items():
            pairs = list(zip(mine, turns.get(other, []), strict=False))
            if pairs:
                ratios = [a["seconds_a_round"] / b["seconds_a_round"] for a, b in pairs]
                found[contender][name] = statistics.median(ratios)
                found[contender][f"{name}_range"] = [min(ratios), max(ratios)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, default=CONTENDERS, metavar="CONTENDER", help=", ".join(CONTENDERS)
    )
    parser.add_argument("--scale", action="store_true", help="only how seconds and memory grow with clients that take no part")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run kept")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"of environments and data; default {CACHE}")
    parser.add_argument("--results", type=Path, metavar="FILE", help="default results/engine.json, with clients if not 500")
    parser.add_argument("--contender", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        name, clients, rounds = given.contender[0], int(given.contender[1]), int(given.contender[2])
        kinds = {"flower": flower, "scale": scale}
        return kinds[name](clients, rounds) if name in kinds else ours(name, clients, rounds)
    if given.scale:
        return compare_scales()
    from fedkd.results.environment import cpu_model

    given.results = given.results or (RESULTS if given.clients == 500 else RESULTS.with_name(f"engine-{given.clients}.json"))
    setting = {"clients": given.clients, "rounds": given.rounds}
    machine = {"cores": os.cpu_count(), "cpu": cpu_model(), "load": os.getloadavg()[0]}
    kept = json.loads(given.results.read_text()) if given.results.exists() and not given.fresh else {}
    if kept.get("setting") != setting:
        kept = {"command": shown(given), "setting": setting, "machine": machine}
    kept["summary"] = summary(measured(given, kept))
    given.results.write_text(json.dumps(kept, indent=1) + "\n")
    for name, found in kept["summary"].items():
        ratio = found.get("over_careful", float("nan"))
        print(f"{name:30} {found['seconds_a_round']:7.2f} s a round {ratio:6.2f} x the careful loop")


def shown(given: argparse.Namespace) -> str:
    """The command, without places of this machine."""
    clients = [f"--clients {given.clients}"] if given.clients != 500 else []
    return " ".join(["python benchmarks/engine.py", *clients])


def compare_scales() -> None:
    """100 clients a round, of 100 and of 10,000."""
    many = {}
    for clients in (100, 10_000):
        rows = many[str(clients)] = run([sys.executable, __file__, "--contender", "scale", str(clients), "12"])
        seconds = statistics.median(row["seconds"] for row in rows[2:-1])  # the last is evaluated
        flat = rows[-2]["megabytes"] - rows[3]["megabytes"]
        print(f"{clients} clients, 100 a round: {seconds:.2f} s a round, {flat:+.1f} MB from round 3 to 11")
    RESULTS.with_name("engine-scale.json").write_text(
        json.dumps({"command": "python benchmarks/engine.py --scale", "many_clients": many}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
