"""fedkd sweep: what it prints, what it leaves on disk, how it ends and goes on."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from programs import descendants, wait_until_ended
from test_cli import EXPERIMENT, Fedkd, stop_after
from test_cli import fedkd as fedkd  # the fixture

from fedkd.cli.cells_shown import Live
from fedkd.engine.cells import Cell, State
from fedkd.engine.sweep.carry_out import Outcome
from fedkd.results.files import read_lines
from fedkd.results.listed import list_runs

GRID = "fedkd sweep small.toml --grid strategy=local,fedavg --seeds 0-1 --set rounds=1 --jobs 1"


@pytest.mark.slow
def test_a_sweep_runs_every_cell_once_and_prints_what_to_type_next(fedkd: Fedkd, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fedkd(f"{GRID} --plan")
    assert plan.code == 0 and not Path("runs").exists()
    assert [line.split() for line in plan.out.splitlines()[1:5]] == [
        [f"strategy={strategy}/seed-{seed}", "to", "do", "0/1"] for strategy in ("local", "fedavg") for seed in (0, 1)
    ]
    assert "from 2 trials of 2 rounds" in plan.out and "between" in plan.out

    with monkeypatch.context() as patch:
        stop_after(0, patch)
        stopped = fedkd(GRID)
    assert stopped.code == 130
    command = stopped.err.strip().removeprefix("stopped; go on with: ")
    assert shlex.split(command) == shlex.split(GRID)

    done = fedkd(command)
    assert done.code == 0 and "strategy=local/seed-0 goes on (1 rounds)" in done.out
    lines = done.out.splitlines()
    assert lines[0] == "runs/small-sweep: 4 cells, 0 done, 1 at once"
    assert sum(line.startswith("[4/4]") for line in lines) == 1
    assert {file.name for file in Path("runs/small-sweep").iterdir()} == {
        *("strategy=fedavg", "strategy=local", "convergence.png", "convergence.svg"),
        *("report.html", "comparison.md", "comparison.csv"),
    }
    following = fedkd(lines[-1].removeprefix("next:").strip())
    assert following.code == 0 and "minus fedavg" in done.out and "minus fedavg" in following.out

    before = Path("runs/small-sweep/strategy=local/seed-1/metrics.jsonl").read_bytes()
    again = fedkd(GRID)
    assert again.code == 0 and again.out.startswith("runs/small-sweep: 4 cells, 4 done")
    assert Path("runs/small-sweep/strategy=local/seed-1/metrics.jsonl").read_bytes() == before
    assert "nothing is left to do" in fedkd(f"{GRID} --plan").out
    more = fedkd(f"{GRID.replace('0-1', '0-2')} --plan")
    assert "from 4 finished cells" in more.out


def test_ctrl_c_while_cells_are_checked_is_no_traceback_either(fedkd: Fedkd, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Cell) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Cell, "check", interrupted)
    assert (done := fedkd(GRID)).code == 130 and done.err == f"stopped; go on with: {GRID}\n"


@pytest.mark.slow
def test_json_lines_and_a_failed_cell(fedkd: Fedkd, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Cell.run

    def failing(self: Cell, *given: Any, **named: Any) -> Any:
        if self.experiment.seed == 1:
            raise ZeroDivisionError("odd")
        return run(self, *given, **named)

    monkeypatch.setattr(Cell, "run", failing)
    done = fedkd(f"{GRID.replace('strategy=local,fedavg', 'train.lr=0.1')} --json --out cells")
    assert done.code == 1
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [(event["cell"], event["event"]) for event in events] == [
        *(("lr=0.1/seed-0", event) for event in ("begun", "round", "round", "done")),
        *(("lr=0.1/seed-1", event) for event in ("begun", "failed")),
    ]
    assert events[2]["accuracy"] == read_lines(Path("cells/lr=0.1/seed-0/metrics.jsonl"))[1]["accuracy"]
    assert "fedkd: cells/lr=0.1/seed-1 failed: ZeroDivisionError: odd" in done.err
    assert done.err.splitlines()[-1].endswith("1 of 2 cells failed, cells/lr=0.1/seed-1 first")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--grid strategy=fedavg,fedmdd", "strategy=fedmdd: strategy.name: unknown strategy 'fedmdd': did you mean 'fedmd'?"),
        ("--grid data.alpha", "write KEY=VALUE,VALUE"),
        ("--seeds 3-1", "write a range or a list"),
        ("--jobs 0", "jobs"),
        ("--grid train.lrr=1", "lrr=1: unknown key 'train.lrr'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(fedkd: Fedkd, options: str, message: str) -> None:
    done = fedkd(f"fedkd sweep small.toml {options}")
    assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_the_live_table_has_all_cells_those_at_work_first_where_there_are_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rich.console import Console

    from fedkd import Experiment

    cells = [Cell(Experiment(rounds=4), tmp_path / f"seed-{seed}") for seed in range(50)]
    states = {cell.out: State.DONE if number < 40 else State.TO_DO for number, cell in enumerate(cells)}
    with Live({cell.out: cell.out.name for cell in cells}, states) as shown:
        shown.begun(cells[45])
        shown.round(cells[45], {"round": 2, "accuracy": 0.5})
        shown.begun(cells[46])
        shown.ended(cells[46], Outcome(2.0, "disk full"))
        with Console(file=sys.stdout, width=100) as console:
            with console.capture() as written:
                console.print(shown.table())
    text = written.get()
    assert text.count("seed-") == 30
    (at_work,) = [line.split() for line in text.splitlines() if "seed-45" in line]
    assert at_work[:6] == ["seed-45", "at", "work", "2/4", "50.0", "%"]
    assert "seed-46  failed" in text and "41 of 50 cells; about" in text


@pytest.mark.slow
def test_runs_and_resume(fedkd: Fedkd, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fedkd("fedkd runs").err.strip() == "fedkd: error: no folder runs: `fedkd run FILE` makes one, or give another"
    assert "no runs/latest, as no run was made" in fedkd("fedkd resume").err
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        stopped = fedkd("fedkd run small.toml --seeds 0")
    assert stopped.err.strip() == "stopped; go on with: fedkd resume runs/small-fedavg-s0"
    (listed,) = json.loads(fedkd("fedkd runs --json").out)
    assert (listed["name"], listed["status"], listed["rounds_done"], listed["rounds"]) == (
        "small-fedavg-s0",
        "unfinished",
        2,
        2,
    )
    gone_on = fedkd("fedkd resume --quiet")
    assert gone_on.code == 0 and "report: runs/small-fedavg-s0/report.html" in gone_on.out
    heading, line = fedkd("fedkd runs").out.splitlines()
    assert heading.split() == ["run", "strategy", "data", "seed", "rounds", "status", "accuracy", "size", "age"]
    assert line.split()[:6] == ["small-fedavg-s0", "fedavg", "digits", "0", "2/2", "finished"]
    assert "has all its rounds" in fedkd("fedkd resume").err
    assert fedkd("fedkd resume --set rounds=3 --quiet").code == 0
    assert "all 1 runs in it are finished" in fedkd("fedkd resume runs").err


@pytest.mark.slow
def test_doctor_says_how_many_clients_fit(fedkd: Fedkd, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = "--set record.uploads=true --set 'record.sinks=[\"parquet\"]'"  # which one client without a directory has no use for
    found = {each["name"]: each["text"] for each in json.loads(fedkd(f"fedkd doctor small.toml --json {kept}").out)}
    assert "measured: a process that ran one client" in found["one client"]
    assert "of 2" in found["at once"] or found["at once"].startswith("all 2")
    monkeypatch.setattr("fedkd.engine.one_clients_memory.PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr("fedkd.results.environment.cores", lambda: 1)
    done = fedkd("fedkd doctor small.toml --set engine.num_cpus=2")
    assert done.code == 1 and "guessed: the libraries" in done.out
    assert "BAD  at once        0 of 2, limited by cores: 1, 2 each" in done.out


@pytest.mark.slow
def test_compare_prints_tables_files_and_json(fedkd: Fedkd) -> None:
    assert fedkd("fedkd run small.toml --seeds 0-1 --out group --quiet").code == 0
    done = fedkd("fedkd compare group --target 0.01 --per-client --last-k 1 --out table.tex")
    assert done.code == 0 and done.out.splitlines()[-1] == "table.tex"
    assert [title in done.out for title in ("accuracy, %", "accuracy over clients, %", "to accuracy 1.0 %")] == [True] * 3
    assert "\\toprule" in Path("table.tex").read_text()
    numbers = json.loads(fedkd("fedkd compare group --json").out)
    assert numbers["groups"][0]["seeds"] == [0, 1] and len(numbers["groups"][0]["readings"]["last"]["values"]) == 2
    for line, message in (
        ("fedkd compare group --out table.txt", "the suffix says the format"),
        ("fedkd compare group --metric accurcy", "no run has the metric 'accurcy'"),
        ("fedkd compare group --baseline x --all-pairs", "not both"),
        ("fedkd compare group --reading lst", "did you mean 'last'?"),
        ("fedkd compare group --last-k 0", "1 round or more"),
        ("fedkd compare small.toml", "is no run and holds none"),
    ):
        bad = fedkd(line)
        assert bad.code == 2 and message in bad.err and len(bad.err.splitlines()) == 1
    Path("group/seed-1/metrics.jsonl").write_text("[]\n")
    damaged = fedkd("fedkd compare group")
    assert damaged.code == 2 and damaged.err.startswith("fedkd: error: group/seed-1/metrics.jsonl, line 1 is no JSON object")


@pytest.mark.slow
def test_ctrl_c_on_ray_ends_with_130_leaves_nobody_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Which of the first two cells has rows first is Ray's affair; the other may not have begun, and has no directory then."""
    (tmp_path / "small.toml").write_text(EXPERIMENT.replace("rounds = 2", "rounds = 100000"))
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from fedkd.cli import main; main()"
    line = "sweep small.toml --seeds 0-2 --jobs 2 --json --out cells"
    errors = tmp_path / "errors.txt"

    def stop_after_round(number: int, of: str | None) -> str:
        """Run the command until a cell, or this one, has a row of so many rounds, then press Ctrl-C; the name of the cell."""
        command = [sys.executable, "-c", code, *shlex.split(line)]
        with (
            errors.open("w") as file,
            subprocess.Popen(
                command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True
            ) as process,
        ):
            assert process.stdout
            limit = threading.Timer(240, process.kill)
            limit.start()
            try:
                rows = (event for event in map(json.loads, process.stdout) if event["event"] == "round")
                cell = next((row["cell"] for row in rows if row["round"] >= number and of in (None, row["cell"])), None)
                assert cell, f"it ended, or was killed, before such a row: {errors.read_text()}"
                started = descendants(process.pid)
                process.send_signal(signal.SIGINT)
                process.communicate()
            finally:
                limit.cancel()
                process.kill()
        assert process.returncode == 130, errors.read_text()
        assert errors.read_text().strip() == f"stopped; go on with: fedkd {line}"
        wait_until_ended(started, seconds=60)  # the last of Ray's end a moment after the command
        return str(cell)

    first = stop_after_round(2, of=None)
    stopped = {run.name: run for run in list_runs(tmp_path / "cells")}
    assert {run.status for run in stopped.values()} == {"unfinished"} and stopped[first].rounds_done >= 2
    stop_after_round(stopped[first].rounds_done + 1, of=first)
    rounds = [row["round"] for row in read_lines(tmp_path / "cells" / first / "metrics.jsonl")]
    assert rounds == list(range(len(rounds))) and len(rounds) > stopped[first].rounds_done + 1
