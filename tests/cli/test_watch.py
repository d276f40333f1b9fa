"""How far a run is: told within a round, on a terminal, in a pipe, from Python, and from beside it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grids.renumbered import RenumberedGrid

from fedkd import Experiment, simulate
from fedkd.base.errors import InputError
from fedkd.cli.watch import watch
from fedkd.grids import InProcessGrid, RayGrid
from fedkd.results import progress, round_lines
from fedkd.results.lock import locked
from fedkd.results.progress import Progress, ProgressFile, read_progress
from fedkd.results.round_lines import Display, PlainLines

EXPERIMENT = Experiment(
    rounds=2, nets="mlp", strategy="local", data={"clients": 3, "train_limit": 90, "partition": "iid"}, train={"epochs": 1}
)


class Noted(Display):
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.told: list[Progress] = []

    def progress(self, progress: Progress) -> None:
        self.told.append(progress)


def expected() -> Iterator[tuple[int, str, int, int]]:
    for round in range(3):
        for phase in ("training", "evaluation") if round else ("evaluation",):
            yield from ((round, phase, done, 3) for done in range(4))


@pytest.mark.parametrize("grid", [InProcessGrid(), pytest.param(RayGrid(2), marks=pytest.mark.slow)])
def test_every_answer_is_told(grid: InProcessGrid | RayGrid) -> None:
    noted = Noted()
    simulate(EXPERIMENT, grid, progress=noted)
    assert [(each.round, each.phase, each.done, each.asked) for each in noted.told] == list(expected())
    assert all(each.seconds >= 0 for each in noted.told)


def test_a_deployment_tells_it_too() -> None:
    noted = Noted()
    simulate(EXPERIMENT, RenumberedGrid({40 + node: {"partition-id": node} for node in range(3)}), progress=noted)
    told = {(each.round, each.phase, each.done, each.asked) for each in noted.told}
    assert told <= set(expected()) and (2, "training", 3, 3) in told


def test_progress_shows_the_rounds_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    simulate(EXPERIMENT, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "local: 3 clients, seed 0" and lines[-1].startswith("round 2/2")
    simulate(EXPERIMENT)
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="progress: give True or False, got 'yes'"):
        simulate(EXPERIMENT, progress="yes")  # type: ignore[arg-type]


def test_a_long_round_says_in_a_pipe_how_far_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_lines, "SILENCE", 0.0)
    with PlainLines("title", 9) as shown:
        shown.progress(Progress(3, "training", done=0, asked=8, seconds=0.0))
        shown.progress(Progress(3, "training", done=2, asked=8, seconds=10.0))
        shown.progress(Progress(3, "training", done=8, asked=8, seconds=40.0))
    assert capsys.readouterr().out.splitlines() == [
        "title",
        "round 3/9  training: 0 of 8 clients",
        "round 3/9  training: 2 of 8 clients, 30.0 s to go",
    ]


def test_how_far_it_is_lies_beside_the_rows_while_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    seen: list[Any] = []
    simulate(EXPERIMENT, out=tmp_path / "run", on_round=lambda row: seen.append(read_progress(tmp_path / "run")))
    assert [each and (each.round, each.phase, each.done) for each in seen] == [(r, "evaluation", 3) for r in range(3)]
    assert not (tmp_path / "run" / progress.FILE).exists()


def test_a_file_of_it_that_cannot_be_read_or_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    (tmp_path / progress.FILE).write_text('{"round": 1')
    assert read_progress(tmp_path) is None
    ProgressFile(tmp_path / "nowhere").write(Progress(1, "training", 0, 3, 0.0))
    assert not (tmp_path / "nowhere").exists()
    told = Progress(1, "training", 1, 3, 2.5)
    ProgressFile(tmp_path).write(told)
    assert read_progress(tmp_path) == told


def test_watching_a_run_that_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(EXPERIMENT, out=tmp_path / "run")
    watch(tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("round")] == ["0/2", "1/2", "2/2"]
    assert lines[-1] == f"it is over: see {tmp_path / 'run' / 'report.html'}"


def test_watching_a_run_until_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = threading.Event()
    watcher = threading.Thread(target=lambda: begun.wait(60) and watch(tmp_path / "run"))
    watcher.start()
    simulate(EXPERIMENT.replace(rounds=4), out=tmp_path / "run", on_round=lambda row: begun.set())
    watcher.join(60)
    out = capsys.readouterr().out
    assert "round 4/4" in out and "it is over: see" in out


def test_watching_a_run_that_stopped_or_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "run"

    def stop(row: dict[str, Any]) -> None:
        if row["round"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(EXPERIMENT, out=place, on_round=stop)
    watch(place)
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"1 of 2 rounds are over: go on with `fedkd resume {place}`")
    (place / progress.FILE).write_text(json.dumps(vars(Progress(2, "training", 1, 3, 1.0))))
    with locked(place):
        watch(place, once=True)
    assert capsys.readouterr().out.splitlines()[-1] == "it goes on: 1 of 2 rounds are over"


def test_watching_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        watch(tmp_path)
