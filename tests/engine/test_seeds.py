"""Several seeds of one experiment: each as it would be alone, gone on with where they were stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedkd import Experiment, InputError, RunFailed, simulate
from fedkd.engine import cells
from fedkd.engine.cells import Cell, State, cells_of_seeds
from fedkd.results import RunDirectory
from fedkd.results.files import read_lines
from fedkd.results.histories import Histories
from fedkd.results.history import TIMES, History

SMALL = Experiment(
    rounds=1, nets="mlp", net_options={"mlp": {"hidden": [4]}}, data={"clients": 2, "partition": "iid", "train_limit": 60}
)


def without_times(history: History) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in history.metrics]


@pytest.mark.slow
def test_each_seed_is_what_it_is_alone() -> None:
    rows: list[dict[str, Any]] = []
    both = simulate(SMALL, seeds=[3, 1, 3], on_round=rows.append)
    assert list(both) == [3, 1]  # in the order given, each once
    assert without_times(both[1]) == without_times(simulate(SMALL.replace(seed=1)))
    assert [(row["seed"], row["round"]) for row in rows] == [(3, 0), (3, 1), (1, 0), (1, 1)]


@pytest.mark.slow
def test_what_is_finished_is_read_and_what_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = RunDirectory.save_checkpoint

    def stopping(self: RunDirectory, round: int, *given: Any, **named: Any) -> None:
        if self.path.name == "seed-1" and round == 1:
            raise KeyboardInterrupt
        save(self, round, *given, **named)

    monkeypatch.setattr(RunDirectory, "save_checkpoint", stopping)
    with pytest.raises(KeyboardInterrupt):
        simulate(SMALL, seeds=range(3), out=tmp_path)
    planned = cells_of_seeds(SMALL, range(3), tmp_path)
    assert [cell.state for cell in planned] == [State.DONE, State.UNFINISHED, State.TO_DO]
    monkeypatch.setattr(RunDirectory, "save_checkpoint", save)
    first = (tmp_path / "seed-0" / "metrics.jsonl").read_bytes()
    found = simulate(SMALL, seeds=range(3), out=tmp_path)
    assert (tmp_path / "seed-0" / "metrics.jsonl").read_bytes() == first
    assert without_times(found[1]) == without_times(simulate(SMALL.replace(seed=1)))
    assert {"convergence.png", "report.html", "comparison.md", "comparison.csv"} <= {file.name for file in tmp_path.iterdir()}
    with pytest.raises(InputError, match="another experiment"):
        simulate(SMALL.replace(train={"lr": 0.5}), seeds=range(2), out=tmp_path)


@pytest.mark.slow
def test_what_a_killed_run_left_before_its_first_checkpoint_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunDirectory, "discard_unstarted", lambda self: None)  # as after a kill

    def killed(*_: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunDirectory, "save_checkpoint", killed)
        simulate(SMALL, out=tmp_path / "seed-0")
    assert len(read_lines(tmp_path / "seed-0" / "metrics.jsonl")) == 1
    monkeypatch.undo()
    cell = Cell(SMALL, tmp_path / "seed-0")
    assert cell.state is State.TO_DO
    cell.run()
    assert cell.state is State.DONE


@pytest.mark.parametrize(
    "files",
    [
        {"env.json": '{"versions": {}}', "metrics.jsonl": '{"round": 0}\n{"round": 1}\n', "experiment.toml": ""},
        {"env.json": '{"versions": {}}', "notes.txt": "mine"},
        {"env.json": '{"PATH": "/usr/bin"}'},
    ],
)
def test_what_else_lies_there_is_no_leftover(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    RunDirectory.clear_unstarted(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(files)


def test_a_failed_seed_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_once(experiment: Experiment, *_: Any, **named: Any) -> History:
        if experiment.seed == 0:
            raise RunFailed("nobody came")
        return History([{"round": 0}])

    monkeypatch.setattr(cells, "run_once", run_once)
    with pytest.raises(RunFailed, match=r"1 of 2 seeds failed \(seed 0: nobody came\)") as failed:
        simulate(SMALL, seeds=range(2))
    assert list(failed.value.history) == [1]


@pytest.mark.parametrize("seeds", [[], 3, "012", [0.5], [True]])
def test_seeds_that_are_none(seeds: Any) -> None:
    with pytest.raises(InputError, match="seeds: give whole numbers, as range"):
        simulate(SMALL, seeds=seeds)


def test_histories_are_summed_up_over_their_seeds() -> None:
    of = Histories({s: History([{"round": r, "accuracy": a} for r, a in enumerate(row)]) for s, row in RESULTS.items()})
    # last: 0.4 and 0.6, t(0.975, 1) = 12.706, half width 12.706 x 0.1414 / sqrt(2) = 1.2706
    assert of.summary(last_k=2)["last"] == pytest.approx({"mean": 0.5, "low": -0.77062, "high": 1.77062, "seeds": 2}, abs=1e-5)
    assert of.summary(last_k=2)["mean_of_last"]["mean"] == pytest.approx((0.45 + 0.65) / 2)
    assert of.summary("knn_accuracy") == {}
    assert of.to_pandas()["seed"].tolist() == [2, 2, 2, 5, 5, 5]
    with pytest.raises(InputError, match="no run of seed 0: there are 2, 5"):
        of[0]


RESULTS = {2: (0.1, 0.5, 0.4), 5: (0.1, 0.7, 0.6)}
