"""runs/latest, and the list of runs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from run_rows import MakeRun, rows_of

from fedkd.base.errors import InputError
from fedkd.results.latest import point_at, run_at
from fedkd.results.listed import list_runs
from fedkd.results.lock import locked
from fedkd.results.recorded import find_runs, run_places


def test_it_leads_to_the_run_that_began_last(tmp_path: Path) -> None:
    for name in ("a", "group/seed-0"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        point_at(tmp_path / "runs" / name)
    assert os.readlink(tmp_path / "runs" / "latest") == "group/seed-0"  # relative: the folder may be moved
    assert run_at(tmp_path / "runs" / "latest") == tmp_path / "runs" / "group" / "seed-0"
    assert run_at(tmp_path / "elsewhere") == tmp_path / "elsewhere"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["a", "group", "latest"]


def test_elsewhere_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "results" / "a").mkdir(parents=True)
    point_at(tmp_path / "results" / "a")
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["a"]
    with pytest.raises(InputError, match="latest, as no run was made in"):
        run_at(tmp_path / "results" / "latest")


def test_where_no_link_is_allowed_it_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **named: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    point_at(tmp_path / "runs" / "a")
    assert (tmp_path / "runs" / "latest").read_text() == "a\n"
    assert run_at(tmp_path / "runs" / "latest") == tmp_path / "runs" / "a"


def test_it_breaks_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "latest").mkdir(parents=True)  # somebody's own
    point_at(tmp_path / "runs" / "a")
    assert (tmp_path / "runs" / "latest").is_dir() and not (tmp_path / "runs" / "latest").is_symlink()
    point_at(tmp_path / "gone" / "runs" / "a")  # nowhere to write


def test_runs_side_by_side_leave_one_whole_link(tmp_path: Path) -> None:
    places = [tmp_path / "runs" / str(number) for number in range(20)]
    for place in places:
        place.mkdir(parents=True)
    threads = [threading.Thread(target=point_at, args=(place,)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run_at(tmp_path / "runs" / "latest") in places
    assert len(list((tmp_path / "runs").iterdir())) == 21


def test_runs_are_found_once_two_levels_down_and_in_the_order_of_their_numbers(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in (10, 2):
        make_run(f"runs/group/seed-{seed}", seed=seed)
    point_at(make_run("runs/alone", strategy="fedavg").path)
    assert [run.path.relative_to(tmp_path).as_posix() for run in find_runs([tmp_path / "runs"])] == [
        "runs/alone",
        "runs/group/seed-2",
        "runs/group/seed-10",
    ]
    assert run_places(tmp_path / "runs" / "latest") == [tmp_path / "runs" / "latest"]


def test_the_cells_of_a_sweep_are_found_from_the_folder_of_all_runs(make_run: MakeRun, tmp_path: Path) -> None:
    cell = make_run("runs/grid/strategy=fd/seed-0", strategy="fd").path
    make_run("runs/grid/strategy=fd/seed-0/code/copy")  # what lies within a run is no run of the list
    point_at(cell)
    (tmp_path / "runs" / "notes.txt").write_text("no folder")
    assert [run.name for run in list_runs(tmp_path / "runs")] == ["grid/strategy=fd/seed-0"]
    assert [run.path for run in find_runs([tmp_path / "runs"])] == [cell]


def test_the_list_says_how_far_each_run_is(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("runs/done", rows=rows_of(0.1, 0.5), finish=True)
    make_run("runs/stopped", seed=3, rows=rows_of(0.1, 0.2))
    make_run("runs/lost", rows=[{"round": 0}, {"round": 1, "clients_ok": 0, "failures": {"0": "OSError: disk full"}}])
    busy = make_run("runs/busy", rows=rows_of(0.1, 0.2))
    (make_run("runs/torn", rows=rows_of(0.1)).path / "metrics.jsonl").write_text("[]\n")
    with locked(busy.path):
        found = {run.name: run for run in list_runs(tmp_path / "runs")}
    assert {name: run.status for name, run in found.items()} == {
        "done": "finished",
        "stopped": "unfinished",
        "lost": "failed",
        "busy": "running",
        "torn": "damaged",
    }
    assert (found["done"].accuracy, found["done"].rounds_done, found["done"].rounds) == (0.5, 1, 1)
    assert found["stopped"].seed == 3 and found["stopped"].size > 100 and found["stopped"].age < 60
    assert "disk full" in found["lost"].reason and "line 1 is no JSON object" in found["torn"].reason
    with pytest.raises(InputError, match="no folder"):
        list_runs(tmp_path / "none")
