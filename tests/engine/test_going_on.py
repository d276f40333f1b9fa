"""A run goes on as it began: what may change is written down, all else is refused in one line with nothing written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import Fedkd, fedkd  # noqa: F401 - a fixture
from test_resume import PowerCut, cut_after, rows
from torch import nn

from fedkd import Experiment, InputError, simulate
from fedkd.base.config_text import flatten, to_toml, unflatten
from fedkd.base.errors import Notice, RunFailed
from fedkd.cli.launch import resumed
from fedkd.data import Source
from fedkd.results import RunDirectory
from fedkd.results.data import RecordedData
from fedkd.results.files import read_lines
from fedkd.results.lock import locked
from fedkd.results.recorded import find_runs, group_seeds


def experiment(**changes: Any) -> Experiment:
    data = {"clients": 3, "partition": "iid", "train_limit": 60, **changes.pop("data", {})}
    options = {"mlp": {"hidden": [4]}}
    return Experiment(**{"rounds": 4, "nets": "mlp", "net_options": options, "data": data, **changes})


def cut(whole: Experiment, place: Path, *, after: int = 2) -> Path:
    with pytest.raises(PowerCut):
        simulate(whole, out=place, on_round=cut_after(after))
    return place


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of FedProx that was cut off after round 2 of 4."""
    return cut(experiment(strategy="fedprox"), tmp_path_factory.mktemp("begun") / "run")


@pytest.fixture
def unfinished(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


def content(place: Path) -> dict[str, bytes]:
    return {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}


def refused(act: Callable[[], Any], place: Path) -> str:
    """The one line, after which the directory is as it was."""
    before = content(place)
    with pytest.raises(InputError) as error:
        act()
    assert content(place) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def edits() -> dict[str, Any]:
    """Every key of the run's experiment that holds a number, and some that hold a name, with another value."""
    names = {
        "train.optimizer": "adam",
        "train.schedule": "step",
        "train.precision": "bf16",
        "data.views": "simclr",
        "nets": "cnn",
    }
    flat = {key: value for key, value in experiment(strategy="fedprox").to_flat().items() if not key.startswith("net_options")}
    numbers = {key: value + 1 for key, value in flat.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    switches = {key: not value for key, value in flat.items() if isinstance(value, bool)}
    return names | numbers | switches


@pytest.mark.parametrize("key", sorted(edits()))
def test_an_edited_experiment_is_refused_whatever_the_key(key: str, unfinished: Path) -> None:
    file, value = unfinished / "experiment.toml", edits()[key]
    section, _, name = key.rpartition(".")
    lines, inside = [], ""
    for line in file.read_text().splitlines():
        inside = line.strip("[]") if line.startswith("[") else inside
        changed = inside == section and line.partition(" = ")[0] == name
        lines.append(f"{name} = {json.dumps(value)}" if changed else line)
    file.write_text("\n".join(lines))
    assert tomllib.loads(file.read_text()) != tomllib.loads(experiment(strategy="fedprox").to_toml())
    line = refused(lambda: resumed(unfinished, {}), unfinished)
    assert f"experiment.toml was edited: it has {key} = " in line and "back; what may change is given as" in line


def test_a_comment_is_no_change(unfinished: Path) -> None:
    file = unfinished / "experiment.toml"
    file.write_text("# my best run\n" + file.read_text())
    assert resumed(unfinished, {}).experiment == experiment(strategy="fedprox")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": {"lr": 0.5}}, "train.lr = 0.01 and is asked to go on with train.lr = 0.5"),
        ({"seed": 7}, "seed = 0 and is asked to go on with seed = 7"),
        ({"rounds": 3}, "rounds = 4 and is asked to go on with rounds = 3"),
        ({"strategy": {"name": "fedprox", "mu": 3.0}}, "strategy.mu = 3.0"),
        ({"strategy": "fedavg"}, "strategy.name = 'fedprox' and is asked to go on with strategy.name = 'fedavg'"),
        ({"uplink": ["float16"]}, "no uplink and is asked to go on with uplink = 'float16,'"),
    ],
)
def test_python_compares_too(changes: dict[str, Any], told: str, unfinished: Path) -> None:
    other = experiment(**{"strategy": "fedprox", **changes})
    line = refused(lambda: simulate(other, out=unfinished, resume=True), unfinished)
    assert told in line.replace("uplink = ''", "no uplink") and line.endswith("start a new run in another directory")


@pytest.mark.slow
def test_more_rounds_are_asked_for_and_written_down(fedkd: Fedkd, unfinished: Path) -> None:  # noqa: F811
    simulate(experiment(strategy="fedprox", rounds=6), out=unfinished.parent / "whole")
    done = fedkd(f"fedkd run --resume {unfinished} --set rounds=6 --set evaluate_clients=2 --quiet")
    assert done.code == 0
    assert tomllib.loads((unfinished / "experiment.toml").read_text())["rounds"] == 6
    (line,) = read_lines(unfinished / "changes.jsonl")
    assert (line["after_round"], line["keys"]["rounds"]) == (2, {"was": 4, "is": 6})
    assert "rounds from 4 to 6" in (unfinished / "report.html").read_text()
    unmeasured = ("client_accuracy", "worst_tenth_accuracy", "evaluation_bytes")
    pieces, whole = (
        [{key: value for key, value in row.items() if key not in unmeasured} for row in rows(place)[:7]]
        for place in (unfinished, unfinished.parent / "whole")
    )
    assert pieces == whole
    again = fedkd(f"fedkd run --resume {unfinished} --set rounds=7 --quiet")  # of a finished run too
    assert again.code == 0 and len(read_lines(unfinished / "metrics.jsonl")) == 8
    assert [line["after_round"] for line in read_lines(unfinished / "changes.jsonl")] == [2, 6]


@pytest.mark.slow
@pytest.mark.parametrize(
    "planned", [{"train": {"schedule": "cosine"}}, {"strategy": "dml", "data": {"partition": "shared"}}], ids=["cosine", "ramp"]
)
def test_a_plan_over_all_rounds_cannot_be_lengthened(planned: dict[str, Any], tmp_path: Path) -> None:
    if planned.get("strategy"):
        planned = {**planned, "strategy": {"name": "dml", "ramp": 0.5}}
    place = cut(experiment(**planned), tmp_path / "run", after=1)
    longer = experiment(**{**planned, "rounds": 9})
    assert "plans over all rounds" in refused(lambda: simulate(longer, out=place, resume=True), place)
    assert len(simulate(experiment(**planned), out=place, resume=True).metrics) == 5


@pytest.mark.slow
def test_where_it_runs_and_where_the_files_lie_may_change(unfinished: Path) -> None:
    moved = experiment(strategy="fedprox", timeout=60.0, engine={"actors": 5})
    assert len(simulate(moved, out=unfinished, resume=True).metrics) == 5
    (line,) = read_lines(unfinished / "changes.jsonl")
    assert line["keys"] == {"timeout": {"was": 3600.0, "is": 60.0}, "engine.actors": {"was": 2, "is": 5}}


# Data


def pictures(classes: tuple[str, ...] = ("a", "b"), *, shift: int = 0, flipped: bool = False, more: int = 0) -> Source:
    images = (torch.arange(30 * 16 + 16 * more) + shift).to(torch.uint8).view(30 + more, 1, 4, 4)
    labels = torch.arange(30 + more) % 2
    return Source("pictures", images, 1 - labels if flipped else labels, images[:6], labels[:6], classes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"classes": ("b", "a")}, "the class names are not what they were (class 0 was 'a' and is 'b')"),
        ({"classes": ("a", "c")}, "class 1 was 'b' and is 'c'"),
        ({"classes": ("a", "b", "c")}, "2 then, 3 now"),
        ({"shift": 1}, "the samples or labels"),
        ({"flipped": True}, "the samples or labels"),
        ({"more": 2}, "the samples or labels"),
    ],
)
def test_other_data_are_refused(other: dict[str, Any], told: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    def data() -> Source:
        return pictures(**given)

    place = cut(experiment(data={"source": data, "train_limit": 0}), tmp_path / "run", after=1)
    given.update(other)
    line = refused(lambda: simulate(experiment(data={"source": data, "train_limit": 0}), out=place, resume=True), place)
    assert "began with other data" in line and told in line


# Code


def thin(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def scaled(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes), nn.Softshrink(0.001))


@pytest.mark.slow
def test_the_code_is_kept_beside_the_run_and_other_code_is_refused(tmp_path: Path) -> None:
    place = cut(experiment(nets=thin, net_options={}), tmp_path / "run")
    (file,) = (place / "code").iterdir()
    assert "nn.Linear(64, classes)" in file.read_text()
    line = refused(lambda: simulate(experiment(nets=scaled, net_options={}), out=place, resume=True), place)
    assert "began with other code" in line and str(file) in line
    assert len(simulate(experiment(nets=thin, net_options={}), out=place, resume=True).metrics) == 5


@pytest.mark.slow
def test_code_that_nobody_can_read_is_said_to_be_unknown(tmp_path: Path) -> None:
    names: dict[str, Any] = {"nn": nn}
    exec("def typed(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))", names)
    whole = experiment(nets=names["typed"], net_options={})
    place = cut(whole, tmp_path / "run")
    with pytest.warns(Notice, match="is not known: no file holds its text"):
        simulate(whole, out=place, resume=True)


@pytest.mark.slow
def test_seeds_of_two_versions_are_no_group(tmp_path: Path) -> None:
    for name, net in (("old", thin), ("new", scaled)):
        for seed in (0, 1):
            simulate(experiment(nets=net, net_options={}, seed=seed, rounds=1), out=tmp_path / f"{name}-{seed}")
    groups = group_seeds(find_runs([tmp_path]))
    assert [len(group.runs) for group in groups] == [2, 2]
    assert len({group.label for group in groups}) == 2
    assert all(group.label.startswith("fedavg (code version ") for group in groups)


@pytest.mark.slow
def test_seeds_with_a_public_set_are_a_group_unless_it_is_of_other_data(tmp_path: Path) -> None:
    """Which samples are public is drawn by the seed."""
    for seed in (0, 1):
        whole = experiment(strategy="fedmd", seed=seed, rounds=1, data={"public": 20})
        simulate(whole, out=tmp_path / f"seed-{seed}")
    (group,) = group_seeds(find_runs([tmp_path]))
    assert len(group.runs) == 2
    data = RecordedData.read(tmp_path / "seed-1")
    assert data is not None and data.public_content == ""
    replace(data, public_content="of another data set").write(tmp_path / "seed-1")
    assert [len(group.runs) for group in group_seeds(find_runs([tmp_path]))] == [1, 1]


@pytest.mark.slow
def test_seeds_on_two_data_sets_are_no_group(tmp_path: Path) -> None:
    file = tmp_path / "data.pt"

    def data() -> Source:
        return pictures(shift=int(file.read_text()))

    for seed, shift in enumerate((0, 0, 1)):
        file.write_text(str(shift))
        simulate(experiment(data={"source": data, "train_limit": 0}, seed=seed, rounds=1), out=tmp_path / f"seed-{seed}")
    assert [len(group.runs) for group in group_seeds(find_runs([tmp_path]))] == [2, 1]


# Logs and checkpoints


@pytest.mark.parametrize("log", ["metrics.jsonl", "clients.jsonl"])
@pytest.mark.parametrize("damage", ["lost", "doubled", "swapped", "changed", "gone"])
def test_lines_that_are_not_what_the_run_wrote_are_refused(log: str, damage: str, unfinished: Path) -> None:
    file = unfinished / log
    lines = file.read_text().splitlines(keepends=True)
    damaged = {
        "lost": [lines[0], *lines[2:]],
        "doubled": [lines[0], *lines],
        "swapped": [lines[1], lines[0], *lines[2:]],
        "changed": [lines[0], lines[1].replace("0.", "1."), *lines[2:]],
        "gone": [],
    }[damage]
    file.write_text("".join(damaged))
    line = refused(lambda: simulate(experiment(strategy="fedprox"), out=unfinished, resume=True), unfinished)
    assert log in line and "bring" in line


@pytest.mark.slow
def test_a_line_that_the_crash_tore_is_dropped(unfinished: Path) -> None:
    for log in ("metrics.jsonl", "clients.jsonl"):
        with (unfinished / log).open("ab") as file:
            file.write(b'{"round": 3, "cli')
    history = simulate(experiment(strategy="fedprox"), out=unfinished, resume=True)
    assert [row["round"] for row in history.metrics] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "manifest", ["{}", "[]", "null", '{"sha256": {}}', '{"round": 2, "sha256": {}}', "not JSON", '{"sha256": 3}']
)
def test_a_manifest_that_says_nothing_gives_way_to_the_round_before(manifest: str, unfinished: Path) -> None:
    (unfinished / "checkpoint" / "round-00002" / "manifest.json").write_text(manifest)
    with pytest.warns(Notice, match=r"round-00002 is damaged \(manifest.json .*\): the run goes on from round 1"):
        assert RunDirectory.find(unfinished).load_checkpoint().round == 1
    (unfinished / "checkpoint" / "round-00001" / "manifest.json").write_text(manifest)
    line = refused(lambda: RunDirectory.find(unfinished), unfinished)
    assert "no complete checkpoint" in line and "round-00002 is damaged: manifest.json" in line


def test_what_is_none_of_ours_among_the_checkpoints_is_let_be(unfinished: Path) -> None:
    folder = unfinished / "checkpoint"
    (folder / "round-best").mkdir()
    (folder / "round-99999").write_text("a note")
    (folder / "round-00009").symlink_to(folder / "round-00002")  # says that it is round 9
    (folder / "round-00008").symlink_to(folder / "nowhere")
    with pytest.warns(Notice, match="round-00009 is damaged"):
        simulate(experiment(strategy="fedprox"), out=unfinished, resume=True)
    assert (folder / "round-best").is_dir() and (folder / "round-99999").read_text() == "a note"


def test_a_checkpoint_of_another_run_is_refused(unfinished: Path, tmp_path: Path) -> None:
    other = cut(experiment(strategy="fedprox", seed=5), tmp_path / "other")
    shutil.rmtree(unfinished / "checkpoint")
    shutil.copytree(other / "checkpoint", unfinished / "checkpoint")
    assert "seed = 0, the run seed = 5" in refused(lambda: RunDirectory.find(unfinished), unfinished)


def rewrite_notes(run: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change what the checkpoints of a run remember of it, as if another fedkd had written them."""
    for place in (run / "checkpoint").iterdir():
        records = json.loads((place / "records.json").read_text())
        (place / "records.json").write_text(json.dumps({**records, "note": change(records["note"])}))
        manifest = json.loads((place / "manifest.json").read_text())
        manifest["sha256"]["records.json"] = hashlib.sha256((place / "records.json").read_bytes()).hexdigest()
        (place / "manifest.json").write_text(json.dumps(manifest))


def test_a_run_of_an_earlier_fedkd_goes_on_and_says_what_is_unknown(unfinished: Path) -> None:
    rewrite_notes(unfinished, lambda note: {})
    (unfinished / "data.json").unlink()
    with pytest.warns(Notice, match="kept no record of experiment, data and code"):
        assert len(simulate(experiment(strategy="fedprox"), out=unfinished, resume=True).metrics) == 5
    assert (unfinished / "data.json").exists()


def test_keys_that_an_earlier_fedkd_did_not_know_have_their_defaults(unfinished: Path) -> None:
    def earlier(keys: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in keys.items() if not key.startswith(("clock.", "guard."))}

    known = earlier(flatten(tomllib.loads((unfinished / "experiment.toml").read_text())))
    (unfinished / "experiment.toml").write_text(to_toml(unflatten(known)))
    rewrite_notes(unfinished, lambda note: {**note, "experiment": earlier(note["experiment"])})
    other = experiment(strategy="fedprox", guard={"step_ratio": 7.0})
    assert "no guard.step_ratio" in refused(lambda: simulate(other, out=unfinished, resume=True), unfinished)
    with pytest.raises(PowerCut):
        simulate(experiment(strategy="fedprox"), out=unfinished, resume=True, on_round=cut_after(3))
    assert len(simulate(experiment(strategy="fedprox"), out=unfinished, resume=True).metrics) == 5


# Who may write where


HOLD = """
import sys, time
from pathlib import Path
from fedkd.results.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_of_two_processes_on_one_directory_the_second_gets_one_line(fedkd: Fedkd, unfinished: Path) -> None:  # noqa: F811
    new = unfinished.parent / "new"
    new.mkdir()
    for place, command in ((unfinished, f"fedkd run --resume {unfinished}"), (new, f"fedkd run small.toml --out {new}")):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout and holder.stdout.readline() == "held\n"
        before = content(place)
        done = fedkd(command)
        assert done.code == 2 and "is being written by another run right now" in done.err and len(done.err.splitlines()) == 1
        assert content(place) == before
        holder.kill()  # the lock ends with its process, and what it left locks nobody out
        holder.wait()
        assert (place / ".lock").exists()
        assert fedkd(f"{command} --quiet").code == 0
        assert not (place / ".lock").exists()


def test_a_lock_holds_within_a_process_too(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="right now"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
    assert not any(tmp_path.iterdir())


def test_where_there_are_no_locks_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fedkd.results.lock._lock", none)
    with pytest.warns(Notice, match="no lock can be had there"), locked(tmp_path):
        pass


def test_a_run_that_fails_before_its_first_checkpoint_leaves_what_others_put_there(tmp_path: Path) -> None:
    def on_round(row: dict[str, Any]) -> None:
        raise AssertionError("never called")

    place = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:

        def full(self: RunDirectory, *arguments: Any, **kept: Any) -> None:
            (place / "thesis.tex").write_text("ten years of work")
            raise RunFailed("the disk is full")

        patch.setattr(RunDirectory, "save_checkpoint", full)
        with pytest.raises(RunFailed):
            simulate(experiment(), out=place, on_round=on_round)
    assert [file.name for file in place.iterdir()] == ["thesis.tex"]


def full_disk(monkeypatch: pytest.MonkeyPatch, name: str, code: int = errno.ENOSPC) -> None:
    """From now on no file whose name holds this can be flushed."""
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux which file a descriptor is of")
@pytest.mark.parametrize("name", ["env.json", "data.json", "experiment.toml"])
def test_a_disk_that_is_full_at_the_start_leaves_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, name)
    with pytest.raises(InputError, match=r"cannot write .*run.*: No space left on device"):
        simulate(experiment(), out=tmp_path / "run")
    assert not any((tmp_path / "run").glob("*.toml"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux which file a descriptor is of")
@pytest.mark.parametrize("name", ["metrics.jsonl", "records.json", "report.html"])
def test_a_disk_that_fills_up_is_one_line_and_the_run_can_go_on(name: str, tmp_path: Path) -> None:
    def fill(row: dict[str, Any]) -> None:
        if row["round"] == 1:
            full_disk(patch, name)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunFailed, match=r"cannot write .*: No space left") as error:
        simulate(experiment(), out=tmp_path / "run", on_round=fill)
    assert "\n" not in str(error.value) and str(error.value).endswith("a run that has begun goes on with --resume")
    assert len(simulate(experiment(), out=tmp_path / "run", resume=True).metrics) == 5


@pytest.mark.parametrize("place", ["file/run", "file/a/b", "file", "x" * 300, "linked"])
def test_places_that_can_hold_no_run(place: str, fedkd: Fedkd, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "file").write_text("mine")
    (tmp_path / "linked").symlink_to(tmp_path / "nowhere")
    for command in (
        f"fedkd run small.toml --out {place}",
        f"fedkd run --resume {place}",
        f"fedkd run small.toml --seeds 0 --out {place}",
    ):
        done = fedkd(command)
        assert done.code == 2, command
        assert len(done.err.splitlines()) == 1, done.err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_figure_that_cannot_be_written_is_one_line(fedkd: Fedkd, begun: Path) -> None:  # noqa: F811
    done = fedkd(f"fedkd plot {begun} --out small.toml/figure.png")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert "cannot write small.toml: " in line
