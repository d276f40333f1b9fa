"""Cells carried out, here and on Ray: the same results, and one that fails stops no other."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fedkd import Experiment, RunFailed, simulate
from fedkd.engine.cells import Cell, State, cells_of_seeds
from fedkd.engine.sweep.carry_out import Outcome, Watcher, carry_out, fitting, run_to_end
from fedkd.grids.side_by_side import Begun, Call, Ended, side_by_side
from fedkd.results.files import read_lines
from fedkd.results.history import TIMES

SMALL = Experiment(
    rounds=1, nets="mlp", net_options={"mlp": {"hidden": [4]}}, data={"clients": 2, "partition": "iid", "train_limit": 60}
)


class Heard(Watcher):
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def begun(self, cell: Cell) -> None:
        self.events.append(("begun", cell.out.name))

    def round(self, cell: Cell, row: Any) -> None:
        self.events.append((f"round {row['round']}", cell.out.name))

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        self.events.append(("failed" if outcome.failure else "done", cell.out.name))


def rows(path: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in read_lines(path / "metrics.jsonl")]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_ray_gives_the_same_runs_as_one_after_the_other(tmp_path: Path) -> None:
    heard = {jobs: Heard() for jobs in (1, 2)}
    for jobs, watcher in heard.items():
        outcomes = carry_out(cells_of_seeds(SMALL, range(3), tmp_path / str(jobs)), watcher, jobs=jobs)
        assert all(outcome.failure == "" and outcome.peak > 0 for outcome in outcomes.values())
    for seed in range(3):
        one, other = (tmp_path / jobs / f"seed-{seed}" for jobs in "12")
        assert rows(one) == rows(other)
        assert (one / "experiment.toml").read_text() == (other / "experiment.toml").read_text()
    assert sorted(heard[1].events) == sorted(heard[2].events)
    assert heard[1].events[:4] == [(what, "seed-0") for what in ("begun", "round 0", "round 1", "done")]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_cell_that_fails_stops_no_other_on_ray_either(tmp_path: Path) -> None:
    bad, good = Cell(SMALL, tmp_path / "file" / "bad"), Cell(SMALL, tmp_path / "good")
    (tmp_path / "file").write_text("")
    outcomes = carry_out([bad, good, Cell(SMALL.replace(seed=1), tmp_path / "other")], Heard(), jobs=2)
    assert "below a file" in outcomes[bad.out].failure and good.state is State.DONE
    assert [bool(outcome.failure) for outcome in outcomes.values()].count(True) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_users_own_modules_are_found_where_the_command_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_of_this_sweep.py").write_text(
        "from torch import nn\n\n\ndef tiny(shape, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    own = SMALL.replace(nets="nets_of_this_sweep:tiny", net_options={})
    outcomes = carry_out(cells_of_seeds(own, range(2), Path("cells")), Heard(), jobs=2)
    assert [outcome.failure for outcome in outcomes.values()] == ["", ""]
    assert (tmp_path / "cells" / "seed-1" / "code" / "nets-nets_of_this_sweep.tiny.py").exists()


def test_every_end_of_a_cell_is_an_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(SMALL, tmp_path / "cell")

    def ending(error: BaseException) -> Outcome:
        def run(*_: object, **named: object) -> None:
            raise error

        monkeypatch.setattr(Cell, "run", run)
        return run_to_end(cell, None, None)

    assert ending(RunFailed("nobody came")).failure == "nobody came"
    odd = ending(ZeroDivisionError("of all\nthings"))
    assert odd.failure == "ZeroDivisionError: of all things" and "Traceback" in odd.traceback
    with pytest.raises(KeyboardInterrupt):
        ending(KeyboardInterrupt())


def test_a_cell_that_failed_before_says_so_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cell, "state", State.FAILED)
    with pytest.raises(RunFailed, match="remove"):
        simulate_failed(tmp_path)


def simulate_failed(place: Path) -> None:
    cell = Cell(SMALL, place / "cell")
    cell.out.mkdir()
    (cell.out / "experiment.toml").write_text(SMALL.to_toml())
    (cell.out / "metrics.jsonl").write_text('{"round": 0}\n{"round": 1, "clients_ok": 0, "failures": {"0": "OSError: full"}}\n')
    cell.run()


def test_how_many_fit_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = cells_of_seeds(SMALL, range(9), tmp_path)
    monkeypatch.setattr("fedkd.engine.sweep.carry_out.cores", lambda: 8)
    monkeypatch.setattr("fedkd.engine.sweep.carry_out.footprint", lambda: 10)
    monkeypatch.setattr("fedkd.engine.sweep.carry_out.memory", lambda: 1000)
    assert fitting(cells) == 8 and fitting(cells[:3]) == 3
    assert fitting(cells_of_seeds(SMALL.replace(engine={"num_cpus": 3}), range(9), tmp_path)) == 2
    monkeypatch.setattr("fedkd.engine.sweep.carry_out.memory", lambda: 45)
    assert fitting(cells) == 4
    monkeypatch.setattr("fedkd.engine.sweep.carry_out.memory", lambda: 5)
    assert fitting(cells) == 1  # one must


def identify(number: int, dies: bool) -> tuple[int, int]:
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    return number, os.getpid()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_processes_are_used_again_and_one_that_dies_costs_its_own_call_alone() -> None:
    calls = [Call((number, number == 2)) for number in range(6)]
    events = list(side_by_side(identify, calls, jobs=2))
    assert sorted(event.call for event in events if isinstance(event, Begun)) == list(range(6))
    ended = {event.call: event for event in events if isinstance(event, Ended)}
    assert [number for number, event in ended.items() if event.death] == [2]
    assert len({event.value[1] for event in ended.values() if not event.death}) < 5
    assert simulate(SMALL).metrics  # this process goes on as before
