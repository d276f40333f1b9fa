"""The fedkd command: what it prints, what it leaves on disk, how it ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedkd.base.errors import InputError
from fedkd.cli import commands as cli
from fedkd.cli import launch
from fedkd.results import RunDirectory
from fedkd.results.files import read_lines
from fedkd.results.history import TIMES
from fedkd.results.live_table import LiveTable

EXPERIMENT = """\
rounds = 2
nets = "mlp"

[strategy]
name = "fedavg"

[train]
lr = 0.1

[data]
source = "digits"
clients = 2
partition = "iid"
train_limit = 200
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def fedkd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[[str], Done]:
    """Runs a command line in an empty directory that holds ``small.toml``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(EXPERIMENT)

    def command(line: str) -> Done:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        return Done(int(end.value.code or 0), out, err)

    return command


Fedkd = Callable[[str], Done]


def numbers(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a run without what a clock measured."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in read_lines(Path(path) / "metrics.jsonl")]


@pytest.mark.slow
def test_run_prints_rounds_and_ends_with_result_place_and_next_command(fedkd: Fedkd) -> None:
    done = fedkd("fedkd run small.toml")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("round")] == ["0/2", "1/2", "2/2"]
    pattern = r"fedavg \(seed 0\): accuracy last [\d.]+ %, best [\d.]+ %, mean of the last two [\d.]+ % "
    assert re.fullmatch(pattern + r"\(global classifier, at the server\)", lines[-3])
    assert lines[-2] == "report: runs/small-fedavg-s0/report.html" and Path("runs/small-fedavg-s0/report.html").exists()
    plotted = fedkd(lines[-1].removeprefix("next:").strip())
    assert plotted.code == 0 and Path("convergence.png").exists() and Path("convergence.svg").exists()


@pytest.mark.slow
def test_json_is_one_object_a_round_and_nothing_else(fedkd: Fedkd) -> None:
    done = fedkd("fedkd run small.toml --json --out result")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert rows == read_lines(Path("result/metrics.jsonl"))
    assert "next:" in done.err


@pytest.mark.slow
def test_quiet_prints_the_result_only(fedkd: Fedkd) -> None:
    assert len(fedkd("fedkd run small.toml --quiet").out.splitlines()) == 3


@pytest.mark.slow
def test_options_reach_the_run(fedkd: Fedkd) -> None:
    options = "--seed 7 --engine in-process --set data.clients=3 --set train.lr=0.5 --set rounds=1 --out there"
    assert fedkd(f"fedkd run small.toml {options}").code == 0
    written = Path("there/experiment.toml").read_text()
    for line in ("seed = 7", "clients = 3", "lr = 0.5", "rounds = 1"):
        assert line in written.splitlines()


@pytest.mark.slow
def test_seeds_run_each_once_and_are_summed_up_with_an_interval(fedkd: Fedkd) -> None:
    first = fedkd("fedkd run small.toml --seeds 0-1 --out sweep")
    assert first.code == 0 and "(2 seeds, 95 % interval)" in first.out and "±" in first.out
    before = numbers("sweep/seed-1")
    second = fedkd("fedkd run small.toml --seeds 1,2 --out sweep")
    assert "sweep/seed-1: all rounds done, skipped" in second.out
    assert numbers("sweep/seed-1") == before != numbers("sweep/seed-2")
    other = fedkd("fedkd run small.toml --seeds 1-3 --out sweep --set train.lr=0.2")
    assert other.code == 2 and "train.lr is 0.1 there and 0.2 here" in other.err and not Path("sweep/seed-3").exists()
    plotted = fedkd("fedkd plot sweep --out all.pdf")
    assert "fedavg (3 seeds" in plotted.out and Path("all.pdf").exists()
    paper = fedkd("fedkd plot sweep --style icml --x bytes --target 0.2 --title Digits --width column --pdf --out paper.png")
    assert (paper.code, paper.err) == (0, "")
    assert re.search(
        r"fedavg \(mean of 3 seeds\): reaches 20\.0 % in round 1, after [\d.]+ [kM]B of uploads, [\d.]+ s", paper.out
    )
    assert paper.out.split()[-4:] == ["paper.png", "paper.svg", "paper.pdf", "paper.csv"]
    for wrong, error in (
        ("--style nips", "unknown style 'nips'"),
        ("--x byte", "did you mean 'bytes'?"),
        ("--target 20", "give 0.8"),
    ):
        refused = fedkd(f"fedkd plot sweep {wrong} --out not.png")
        assert refused.code == 2 and error in refused.err and not Path("not.png").exists()


@pytest.mark.slow
def test_replay_says_what_another_aggregator_would_have_broadcast(fedkd: Fedkd) -> None:
    assert fedkd("fedkd run small.toml --quiet --out kept --set record.uploads=true").code == 0
    done = fedkd("fedkd replay kept --aggregator median --codec float16 --round all")
    assert (done.code, done.err) == (0, "")
    heading, first, second, whose = done.out.splitlines()
    assert heading.split()[:3] == ["round", "clients", "accuracy"] and [first.split()[0], second.split()[0]] == ["1", "2"]
    assert whose == "accuracy: on the global test set; in brackets what was broadcast, and the bytes that it took"
    accuracies = [row["accuracy"] for row in numbers("kept")[1:]]
    rows = json.loads(fedkd("fedkd replay kept --json --round all").out)
    assert [row["accuracy"] for row in rows] == accuracies and [row["difference"] for row in rows] == [0, 0]
    for line, accuracy in zip((first, second), accuracies, strict=True):
        assert f"({100 * accuracy:.1f} %)" in line
    for wrong, error in (
        ("kept --aggregator medain", "did you mean 'median'?"),
        ("kept --round last", "--round last: give the number of a round, or all"),
        ("kept --round 9", "kept kept no uploads of round 9: there are 1 to 2"),
        (".", "holds no run"),
    ):
        refused = fedkd(f"fedkd replay {wrong}")
        assert refused.code == 2 and error in refused.err and len(refused.err.splitlines()) == 1


def stop_after(round: int, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] = KeyboardInterrupt) -> None:
    """Ctrl-C as soon as this round's checkpoint is written; -1: before the first."""
    save = RunDirectory.save_checkpoint

    def stopping(self: RunDirectory, now: int, *arguments: Any, **named: Any) -> None:
        if now > round:
            raise error
        save(self, now, *arguments, **named)

    monkeypatch.setattr(RunDirectory, "save_checkpoint", stopping)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fedkd run small.toml --out broken", "fedkd run small.toml --seeds 0 --out broken"])
def test_a_stopped_run_goes_on_to_the_same_metrics(fedkd: Fedkd, command: str) -> None:
    assert fedkd("fedkd run small.toml --out whole").code == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, patch)
        stopped = fedkd(command)
    assert stopped.code == 130
    (advice,) = stopped.err.splitlines()
    place = advice.rpartition(" ")[2]
    assert [row["round"] for row in numbers(place)] == [0, 1, 2]  # the line of round 2 was finished
    again = fedkd(command if "--seeds" in command else advice.partition("go on with: ")[2])
    assert again.code == 0
    assert numbers(place) == numbers("whole")
    assert fedkd(f"fedkd run --resume {place}").code == 2  # nothing is left to do


def test_a_run_that_stops_before_its_first_checkpoint_leaves_nothing(fedkd: Fedkd, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(-1, monkeypatch)
    stopped = fedkd("fedkd run small.toml --out broken")
    assert stopped.code == 130 and "nothing was kept" in stopped.err
    assert not Path("broken").exists()


def test_resume_takes_nothing_away_where_there_is_no_checkpoint(fedkd: Fedkd) -> None:
    Path("old").mkdir()
    Path("old/experiment.toml").write_text(EXPERIMENT)
    Path("old/metrics.jsonl").write_text('{"round": 0}\n')
    done = fedkd("fedkd run --resume old")
    assert done.code == 2 and "no complete checkpoint" in done.err
    assert Path("old/metrics.jsonl").read_text() == '{"round": 0}\n'


def test_the_command_reports_to_nobody(fedkd: Fedkd, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, given in (("0", None), ("1", "1")):  # whoever asks for Flower's telemetry gets it
        monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
        if given:
            monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", given)
        fedkd("fedkd --help")
        assert os.environ["FLWR_TELEMETRY_ENABLED"] == name


def test_an_unexpected_error_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(EXPERIMENT)
    stop_after(-1, monkeypatch, ZeroDivisionError)
    monkeypatch.setattr(sys, "argv", ["fedkd", "run", "small.toml"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fedkd run", "give an experiment file"),
        ("fedkd run none.toml", "none.toml"),
        ("fedkd run small.toml --set data.alfa=1", "alfa"),
        ("fedkd run small.toml --set strategy.name=fedaverage", "did you mean 'fedavg'"),
        ("fedkd run small.toml --set strategy=fedaverage", "'fedavg'? (given beside the file, as by --set)"),
        ("fedkd run small.toml --set strategy.name=none:Mine", "installed ones (given beside the file, as by --set)"),
        ('fedkd run small.toml --set nets={"cnn":1}', "write a table as TOML has it"),
        ("fedkd run .", ". is a directory: name a .toml file in it"),
        ("fedkd sweep small.toml --grid strategy=fedavg --out small.toml", "lies below a file"),
        ("fedkd run small.toml --set rounds", "write KEY=VALUE"),
        ("fedkd run small.toml --set .lr=1", "write KEY=VALUE"),
        ("fedkd run small.toml --set train.lr=fast", "got 'fast' (given beside the file, as by --set)"),
        ("fedkd run small.toml --set data.partition=dirichlet --set data.alpha=0", "data.alpha = 0: must be larger than 0"),
        ("fedkd run small.toml --seeds 2-0", "write a range or a list"),
        ("fedkd run small.toml --seeds 0-1 --seed 3", "not both"),
        ("fedkd run small.toml --resume there", "leave FILE away"),
        ("fedkd run small.toml --out small.toml", "small.toml is a file"),
        ("fedkd run small.toml --engine cloud", "engine"),
        ("fedkd run small.toml --set data.clients=100000", "clients"),
        ("fedkd run --resume nowhere", "holds no run"),
        ("fedkd run small.toml --sead 3", "--sead"),
        ("fedkd plot .", "is no run and holds none"),
        ("fedkd fly", "fly"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(fedkd: Fedkd, line: str, message: str) -> None:
    done = fedkd(line)
    assert done.code == 2
    (error,) = done.err.splitlines()
    assert error.startswith("fedkd: error: ") and message in error
    assert [path.name for path in Path().iterdir()] == ["small.toml"]


def test_a_taken_directory_is_refused(fedkd: Fedkd) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("ten years of work")
    done = fedkd("fedkd run small.toml --out mine")
    assert done.code == 2 and "other files" in done.err
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.tex"]


def test_strategies_are_listed(fedkd: Fedkd) -> None:
    listed = {row["name"]: row for row in json.loads(fedkd("fedkd strategies --json").out)}
    assert {"local", "fedavg", "fedx"} <= listed.keys()
    assert listed["fedx"].keys() == {"name", "paper", "sends", "needs"} and "2207.09158" in listed["fedx"]["paper"]
    text = fedkd("fedkd strategies").out
    assert all(name in text for name in listed)


@pytest.mark.slow
def test_losses_and_targets_are_listed_with_what_they_need(fedkd: Fedkd) -> None:
    losses = {row["name"]: row for row in json.loads(fedkd("fedkd losses --json").out)}
    assert losses["dkd"] == {
        "name": "dkd",
        "function": "dkd_loss",
        "needs": "labels, logits",
        "weight": "1",
        "options": "alpha, beta, temperature",
    }
    targets = {row["name"]: row for row in json.loads(fedkd("fedkd targets --json").out)}
    assert (targets["confidence"]["needs"], targets["mean_probs"]["needs"]) == ("labels", "")
    assert all(name in fedkd("fedkd losses").out for name in losses)
    assert all(name in fedkd("fedkd targets").out for name in targets)


def test_doctor_knows_versions_and_telemetry(fedkd: Fedkd) -> None:
    found = {row["name"]: row for row in json.loads(fedkd("fedkd doctor --json").out)}
    assert found["flwr"]["ok"] and found["flwr"]["text"].startswith("1.4")
    assert "FLWR_TELEMETRY_ENABLED=0" in found["telemetry"]["text"]
    assert fedkd("fedkd doctor").out.splitlines()[-1].startswith("All good.")


@pytest.mark.parametrize(("text", "seeds"), [("0-2", [0, 1, 2]), ("3", [3]), ("0,2-3,2", [0, 2, 3])])
def test_seeds_as_typed(text: str, seeds: list[int]) -> None:
    assert launch.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "1-", "0-2-4"])
def test_seeds_mistyped(text: str) -> None:
    with pytest.raises(InputError, match="--seeds"):
        launch.parse_seeds(text)


def test_the_live_table_shows_the_latest_rounds_and_marks_failures(capfd: pytest.CaptureFixture[str]) -> None:
    with LiveTable("runs/demo", 40) as shown:
        for round in range(21):
            shown.row(
                {
                    "round": round,
                    "accuracy": 0.5,
                    "seconds": 2.0,
                    "bytes_up": 46_028_704,
                    "clients_ok": 9,
                    "clients_late": 1,
                }
            )
    out, _ = capfd.readouterr()
    assert "runs/demo" in out and "round 20 of 40  40.0 s to go" in out
    assert "46.0 MB" in out and "9 ok, 1 late" in out


@pytest.mark.parametrize(
    "command", ["", *(f" {command.name or command.callback.__name__}" for command in cli.app.registered_commands)]
)
def test_help_prints_brackets_as_they_are(fedkd: Fedkd, command: str) -> None:
    shown = fedkd(f"fedkd{command} --help")
    assert shown.code == 0 and "Usage: " in shown.out and "\\" not in shown.out


def test_help_starts_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['fedkd', 'run', '--help']\n"
        "from fedkd.cli.commands import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'flwr', 'ray', 'matplotlib', 'pandas', 'pydantic'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_whole_lines(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(EXPERIMENT.replace("rounds = 2", "rounds = 100000"))
    # A shell's background job ignores Ctrl-C, and so would its children; at a prompt they do not.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from fedkd.cli.commands import main; main()"
    )
    command = [sys.executable, "-c", code, "run", "small.toml", "--out", "long"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("round 2/"):
                process.send_signal(signal.SIGINT)
                break
        try:
            _, error = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 130
    assert error.strip() == "stopped; go on with: fedkd resume long"
    log = (tmp_path / "long" / "metrics.jsonl").read_text()
    assert log.endswith("\n") and all(json.loads(line)["round"] == n for n, line in enumerate(log.splitlines()))


@pytest.mark.slow
def test_a_failed_run_ends_with_1_and_leaves_no_report(fedkd: Fedkd) -> None:
    done = fedkd("fedkd run small.toml --quiet --out lost --set faults.dropout=1.0")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[0].startswith("fedkd: note: round 1: no client's upload counted (client 0: dropped out")
    assert done.err.splitlines()[-1].startswith("fedkd: the run failed: no client's upload counted in any round")
    assert "lost/clients.jsonl" in done.err and Path("lost/clients.jsonl").exists()
    again = fedkd("fedkd run --resume lost")
    assert again.code == 1 and "to run it again, remove lost first" in again.err
    drawn = fedkd("fedkd plot lost")
    assert drawn.code == 2 and "lost failed, there is nothing to draw" in drawn.err and not Path("convergence.png").exists()


@pytest.mark.slow
def test_a_failed_seed_stops_no_other_and_is_not_skipped_the_next_time(fedkd: Fedkd) -> None:
    """One client that drops out half of the time: with seed 9 in both rounds."""
    command = "fedkd run small.toml --quiet --seeds 9,10 --out all --set data.clients=1 --set faults.dropout=0.5"
    for done in (fedkd(command), fedkd(command)):
        assert done.code == 1
        (failed,) = (line for line in done.err.splitlines() if " failed: no client's upload counted in any round" in line)
        assert failed.startswith("fedkd: all/seed-9 failed:")
        assert done.err.splitlines()[-1] == "fedkd: the run failed: 1 of 2 runs has nothing to show"
        assert "report: all/seed-10/report.html" in done.out and "report: all/seed-9" not in done.out
    drawn = fedkd("fedkd plot all")
    assert drawn.code == 0 and "all/seed-9 failed and is left out" in drawn.err and "(seed 10)" in drawn.out


@pytest.mark.slow
def test_baselines_of_a_run_that_fails_are_still_made(fedkd: Fedkd) -> None:
    done = fedkd("fedkd run small.toml --quiet --baselines --out mine --set strategy.name=fedprox --set strategy.mu=1e38")
    assert done.code == 1 and "fedkd: mine failed:" in done.err
    assert Path("mine-local/report.html").exists() and "centralised" in done.out


@pytest.mark.slow
def test_what_is_done_with_the_data_is_noted_and_an_error_stands_alone(fedkd: Callable[[str], Done], tmp_path: Path) -> None:
    done = fedkd("fedkd run small.toml --set data.partition=shard --set data.shard_size=15 --set rounds=1 --quiet --out run")
    assert done.code == 0
    assert done.err == "fedkd: note: data.partition leaves 5 of 200 samples with no client\n"
    assert json.loads((tmp_path / "run/data.json").read_text())["unheld"] == 5
    done = fedkd("fedkd run small.toml --set data.partition=shard --set data.shard_size=15 --set data.clients=70 --out other")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert not (tmp_path / "other").exists()
