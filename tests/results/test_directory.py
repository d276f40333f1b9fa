"""A run's directory: what is in it, what it refuses, and how a broken log is mended."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from run_rows import MakeRun, insects, insects_run, rows_of
from safetensors.torch import load_file

from fedkd.base.errors import InputError
from fedkd.results import RunDirectory
from fedkd.results.data import RecordedData
from fedkd.results.files import read_lines

STATE = {"server": RecordDict({"config": ConfigRecord({"x": 1})})}


def test_a_new_run_says_what_it_is_and_where_it_ran(make_run: MakeRun) -> None:
    run = make_run()
    assert sorted(file.name for file in run.path.iterdir()) == ["data.json", "env.json", "experiment.toml"]
    assert 'name = "fedx"' in run.experiment_toml()
    environment = json.loads((run.path / "env.json").read_text())
    assert {"fedkd", "torch", "flwr", "ray", "numpy"} <= environment["versions"].keys()
    assert environment["cores"] >= 1 and environment["memory"] > 2**28
    assert str(Path.home()) not in json.dumps(environment)


def test_lines_are_strict_json_whatever_the_numbers(make_run: MakeRun) -> None:
    run = make_run()
    row = {"round": 1, "loss": math.nan, "accuracy": np.float32(0.5), "seconds": torch.tensor(2.0), "n": np.int64(3)}
    run.append(row, [{"client": 7, "status": "ok", "loss": math.inf}])
    assert (run.path / "metrics.jsonl").read_text() == ('{"round": 1, "loss": null, "accuracy": 0.5, "seconds": 2.0, "n": 3}\n')
    assert read_lines(run.path / "clients.jsonl") == [{"round": 1, "client": 7, "status": "ok", "loss": None}]


@pytest.mark.parametrize(
    ("content", "message"),
    [("experiment.toml", "already holds a run.*fedkd resume"), ("notes.txt", "other files.*--out")],
)
def test_a_taken_directory_is_refused_and_left_alone(tmp_path: Path, content: str, message: str) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / content).write_text("mine")
    nobody: Any = None
    with pytest.raises(InputError, match=message):
        RunDirectory.create(taken, nobody)
    assert [(file.name, file.read_text()) for file in taken.iterdir()] == [(content, "mine")]


def test_an_empty_directory_may_be_used(tmp_path: Path, make_run: MakeRun) -> None:
    (tmp_path / "run").mkdir()
    assert (make_run("run").path / "experiment.toml").exists()


def test_resume_drops_what_came_after_the_checkpoint(make_run: MakeRun) -> None:
    run = make_run(rows=rows_of(0.1, 0.2), clients=[{"client": 0}])
    run.save_checkpoint(1, STATE)
    run.append({"round": 2, "accuracy": 0.3}, [{"client": 0}])
    with (run.path / "metrics.jsonl").open("a") as log:
        log.write('{"round": 3, "accur')  # the power went here
    resumed = RunDirectory.find(run.path)
    assert len(read_lines(run.path / "metrics.jsonl")) == 3  # nothing is written yet
    resumed.take_up(insects_run(run))
    assert [row["round"] for row in read_lines(run.path / "metrics.jsonl")] == [0, 1]
    assert [row["round"] for row in read_lines(run.path / "clients.jsonl")] == [0, 1]
    loaded = resumed.load_checkpoint()
    assert (loaded.round, loaded.parts) == (1, STATE)
    resumed.append({"round": 2, "accuracy": 0.25}, [])
    assert [row["accuracy"] for row in read_lines(run.path / "metrics.jsonl")] == [0.1, 0.2, 0.25]


def test_resume_says_what_is_missing(tmp_path: Path, make_run: MakeRun) -> None:
    with pytest.raises(InputError, match="holds no run"):
        RunDirectory.find(tmp_path)
    with pytest.raises(InputError, match="no complete checkpoint"):
        RunDirectory.find(make_run().path)


def test_a_finished_run_holds_nets_figures_and_report(make_run: MakeRun) -> None:
    run = make_run(rows=rows_of(0.1, 0.2))
    run.draw_partition(RecordedData.of(insects()), insects().partition_table())
    weight = torch.arange(6).reshape(2, 3).T  # not contiguous
    run.finish([("global", {"weight": weight, "tied": weight})])
    assert torch.equal(load_file(run.path / "nets" / "global.safetensors")["tied"], weight)
    names = {"convergence.png", "convergence.svg", "report.html", "partition.png", "metrics.jsonl", "clients.jsonl"}
    assert names <= {file.name for file in run.path.iterdir()}


def test_only_a_run_without_a_checkpoint_is_discarded(make_run: MakeRun) -> None:
    unstarted, started = make_run("unstarted", rows=rows_of(0.1)), make_run("started", rows=rows_of(0.1))
    started.save_checkpoint(0, STATE)
    (unstarted.path / "notes.txt").write_text("mine")
    for run in (unstarted, started):
        run.discard_unstarted()
    assert [file.name for file in unstarted.path.iterdir()] == ["notes.txt"]
    assert (started.path / "metrics.jsonl").exists()
