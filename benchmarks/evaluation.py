"""What evaluation costs on the FedX table of Fashion-MNIST: its share of all rounds' time, and where it goes.

    python benchmarks/evaluation.py                  # FedX and FedSimCLR, in-process and on two Ray actors: about nine minutes
    python benchmarks/evaluation.py --images 600     # a try: does it run?

The experiments are simulations/fashion_mnist_fedx.toml and its sibling, of which two rounds are run: as there, every second
is evaluated. Evaluated are the encoder at the server (features of all labelled training images and of 10,000 test images, the
linear probe, 200 nearest neighbours, probes on few labels, alignment and uniformity), and each client's own test images and own
probe. Each run is a process of its own; a part's seconds on Ray are those at the server, and clients count from the question to
the last answer. Results are kept as they come: the same command goes on where one was cut short (--fresh starts anew).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "evaluation.json"
STRATEGIES, ENGINES, ROUNDS = ("fedx", "fedsimclr"), ("in-process", "ray"), 2
#: Function of fedkd.engine.evaluation -> what it is called here.
PARTS = {
    "features_of": "features",
    "fit_probe": "linear probe",
    "fit_small_probe": "linear probe of a client",
    "neighbour_score": "neighbours",
    "few_label_accuracies": "probes on few labels",
    "view_scores": "alignment and uniformity",
}


def timed(seconds: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which adds its seconds to those of this name."""

    def call(*arguments: Any, **more: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **more)
        finally:
            seconds[name] += time.perf_counter() - began

    return call


def watch(seconds: dict[str, float]) -> None:
    """From here on, the parts of evaluation in this process are timed, and clients from the question to the last answer."""
    from fedkd.engine.evaluation import client_embedder, evaluate
    from fedkd.engine.evaluation_round import EvaluationRound

    for module, where in ((evaluate, "server"), (client_embedder, "clients")):
        for function, part in PARTS.items():
            if hasattr(module, function):
                setattr(module, function, timed(seconds, f"{where}: {part}", getattr(module, function)))
    ask, absorb, asked = EvaluationRound.ask, EvaluationRound.absorb, [0.0]

    def timed_ask(self: EvaluationRound, *arguments: Any) -> Any:
        began = time.perf_counter()
        messages = ask(self, *arguments)
        asked[0] = time.perf_counter()
        seconds["server, all of it"] += asked[0] - began
        return messages

    def timed_absorb(self: EvaluationRound, *arguments: Any) -> None:
        absorb(self, *arguments)
        seconds["clients, all of it"] += time.perf_counter() - asked[0]

    EvaluationRound.ask, EvaluationRound.absorb = timed_ask, timed_absorb  # type: ignore[method-assign]


def contend(strategy: str, engine: str, images: int, precision: str) -> dict[str, Any]:
    """Seconds of both rounds, of which those of evaluation, and its parts."""
    from fedkd import Experiment, simulate

    experiment = Experiment.from_toml(ROOT / "simulations" / "fashion_mnist_fedx.toml")
    data = experiment.data.model_copy(update={"train_limit": images, "test_limit": 0 if images == 5000 else 2 * images})
    train = experiment.train.model_copy(update={"precision": precision})
    experiment = experiment.replace(strategy=strategy, rounds=ROUNDS, data=data, train=train)
    seconds: dict[str, float] = defaultdict(float)
    watch(seconds)
    began = [0.0]

    def on_round(row: dict[str, Any]) -> None:
        if row["round"] == 0:  # nothing is trained before it
            seconds.clear()
            began[0] = time.perf_counter()

    simulate(experiment, engine, on_round=on_round)
    total = time.perf_counter() - began[0]
    evaluation = seconds["server, all of it"] + seconds["clients, all of it"]
    every = (total - evaluation) / ROUNDS + evaluation
    parts = {name: round(value, 2) for name, value in sorted(seconds.items())}
    shares = {"share": round(evaluation / total, 4), "share_of_an_evaluated_round": round(evaluation / every, 4)}
    return {**shares, "seconds": round(total, 2), "evaluation_seconds": round(evaluation, 2), "parts": parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="of training")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"], help="of training; the table has bf16")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run kept")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        return print(json.dumps(contend(*given.contender, given.images, given.precision)))
    from fedkd.results.environment import cpu_model

    kept = json.loads(given.results.read_text()) if given.results.exists() and not given.fresh else {}
    if (kept.get("images"), kept.get("precision")) != (given.images, given.precision):
        machine = {"cores": os.cpu_count(), "cpu": cpu_model(), "load": os.getloadavg()[0]}
        kept = {
            "command": "python benchmarks/evaluation.py",
            "machine": machine,
            "images": given.images,
            "precision": given.precision,
            "runs": {},
        }
    for engine in ENGINES:
        for strategy in STRATEGIES:
            name = f"{strategy}, {engine}"
            if name not in kept["runs"]:
                kept["runs"][name] = run(strategy, engine, given)
                given.results.write_text(json.dumps(kept, indent=1) + "\n")
            found = kept["runs"][name]
            often, once = found["share"], found["share_of_an_evaluated_round"]
            print(f"{name:24} evaluation takes {often:.1%} of the time, {once:.1%} of an evaluated round", flush=True)


def run(strategy: str, engine: str, given: argparse.Namespace) -> Any:
    """One of them, in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--contender",
        strategy,
        engine,
        "--images",
        str(given.images),
        "--precision",
        given.precision,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=3600, check=False
    )
    if done.returncode:
        raise SystemExit(f"{strategy} on {engine}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
