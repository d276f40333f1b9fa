"""What one client of an experiment takes, measured: a round of it in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from typing import Any, final

from fedkd.base.errors import InputError, Notice
from fedkd.engine.one_run import run_once
from fedkd.engine.sweep.carry_out import peak_memory
from fedkd.experiment.experiment import Experiment

#: How long measuring may take.
PATIENCE_SECONDS = 120.0


@final
@dataclass(frozen=True)
class OneClient:
    """Bytes that a process has at most with the libraries and the data alone, and with one client's round, server included."""

    idle: int
    peak: int


def measure(experiment: Experiment) -> OneClient | str:
    """Measure it in a new process; or why that could not be done.

    One client takes part in one round of one epoch. Memory grows with batches and nets, not with epochs.
    """
    command = [sys.executable, "-c", f"from {__name__} import tell; tell()"]
    there = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # it finds what this process finds
    tables = json.dumps(experiment.to_tables())
    try:
        done = subprocess.run(command, input=tables, env=there, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"one client took longer than {PATIENCE_SECONDS:g} s"
    if done.returncode:
        return done.stderr.strip().rpartition("\n")[2] or f"its process ended with {done.returncode}"
    return OneClient(**json.loads(done.stdout.splitlines()[-1]))


def tell() -> None:
    """Read an experiment's tables from stdin, run one client, and print what it took: the other half of ``measure``."""
    warnings.simplefilter("ignore", Notice)
    short = shortened(json.load(sys.stdin))
    short.run_federation.partition_table()
    idle = peak_memory()
    run_once(short, "in-process")
    print(json.dumps({"idle": idle, "peak": peak_memory()}))


def shortened(tables: dict[str, Any]) -> Experiment:
    """The experiment with one round of one epoch and one client; with all of them, where its strategy does not do with one.

    It has no directory, so nothing is kept or sent to a sink.
    """
    tables = {**tables, "rounds": 1, "evaluate_clients": 1, "train": {**tables["train"], "epochs": 1}, "record": {}}
    try:
        return Experiment.from_values({**tables, "participation": 1 / tables["data"]["clients"]})
    except InputError:
        return Experiment.from_values(tables)
