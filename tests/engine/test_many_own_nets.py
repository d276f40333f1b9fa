"""Clients that own a net: memory, disk and time go with those who take part, however many there are."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from test_resume import PowerCut, cut_after, rows

from fedkd import Experiment, InputError, simulate
from fedkd.base.errors import Notice
from fedkd.engine import room_for_states
from fedkd.grids import JobGrid, contexts
from fedkd.results import checkpoint, client_states
from fedkd.results.checkpoint import Checkpoint
from fedkd.results.client_states import FILE, ClientStates
from fedkd.results.stored_states import states_after

fork = multiprocessing.get_context("fork")


def experiment(clients: int = 12, cohort: int = 3, hidden: int = 8, **changes: Any) -> Experiment:
    """Digits: of 64 pixels each, so that a net is small and a client has few samples."""
    data = {"source": "digits", "clients": clients, "partition": "iid", "client_test": 0.0, "train_limit": 2 * clients}
    nets = {"nets": "mlp", "net_options": {"mlp": {"hidden": [hidden]}}, "train": {"momentum": 0.9}}
    usual = {"strategy": "fedproto", "rounds": 5, "evaluate_clients": 2, "participation": cohort / clients, **nets}
    return Experiment(**{**usual, "data": data, **changes})


def nets_of(place: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (place / "nets").iterdir()}


# ---- how much is written, read and done


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="asks Linux what this process has written")
def test_bytes_written_in_a_round_go_with_who_took_part(tmp_path: Path) -> None:
    def written() -> int:
        return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])

    def in_a_round(clients: int) -> int:
        seen: list[int] = []
        whole = experiment(clients, cohort=3, hidden=600, evaluate_every=99)  # a net of 180 kB
        simulate(whole, out=tmp_path / str(clients), on_round=lambda row: seen.append(written()))
        return seen[4] - seen[3]

    few, many = in_a_round(6), in_a_round(60)
    assert 3 * 180_000 < few < 3 * 180_000 + 250_000  # and the rows, the server's part, and pages that say what is where
    assert many < 1.05 * few


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "fedproto", "local"])
def test_no_function_is_called_in_a_round_for_every_client_there_is(strategy: str, tmp_path: Path) -> None:
    def calls(clients: int) -> Counter[str]:
        counted, seen = Counter[str](), list[Counter[str]]()

        def count(frame: FrameType, event: str, argument: Any) -> None:
            if event == "call":
                counted[f"{frame.f_code.co_filename}: {frame.f_code.co_qualname}"] += 1
            elif event == "c_call":
                counted[argument.__qualname__] += 1

        def on_round(row: dict[str, Any]) -> None:
            seen.append(counted.copy())
            if row["round"] == 4:
                sys.setprofile(None)

        whole = experiment(clients, strategy=strategy, evaluate_every=99, data=rows_for(clients))
        sys.setprofile(count)
        try:
            simulate(whole, out=tmp_path / f"{clients}", on_round=on_round)
        finally:
            sys.setprofile(None)
        return seen[4] - seen[3]

    few, many = calls(30), calls(600)
    assert few.total() > 5000
    assert [name for name, number in (many - few).items() if number > 300] == []


def rows_for(clients: int) -> dict[str, Any]:
    return {"source": "digits", "clients": clients, "partition": "iid", "client_test": 0.0, "train_limit": 2 * clients}


def test_what_leaves_memory_comes_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = experiment()
    simulate(whole, out=tmp_path / "held")
    monkeypatch.setattr(contexts, "HELD_BYTES", 1)
    found = simulate(whole)
    assert simulate(whole, out=tmp_path / "left").metrics[-1]["accuracy"] == found.metrics[-1]["accuracy"]
    assert rows(tmp_path / "held") == rows(tmp_path / "left")
    assert nets_of(tmp_path / "held") == nets_of(tmp_path / "left")


@pytest.mark.slow
def test_what_leaves_memory_comes_back_on_ray_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hired: Callable[[], JobGrid]
) -> None:
    """FedMD's rounds have two exchanges, between which a client's net is live at its worker."""
    whole = experiment(strategy="fedmd", data={**rows_for(12), "train_limit": 60, "public": 20})
    simulate(whole, out=tmp_path / "held")
    monkeypatch.setattr(contexts, "HELD_BYTES", 1)
    simulate(whole, hired(), out=tmp_path / "ray")
    assert rows(tmp_path / "held") == rows(tmp_path / "ray")
    assert nets_of(tmp_path / "held") == nets_of(tmp_path / "ray")


# ---- going on


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(function: Callable[..., Any], number: int) -> Callable[..., Any]:
    """The function, which kills this process in place of its so many-th call."""
    left = [number]

    def called(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            die()
        return function(*arguments, **named)

    return called


#: Where the run is killed in round 3: in the database's transaction, between it and the checkpoint, after both.
MOMENTS: dict[str, Callable[[], None]] = {
    "a state is half written": lambda: setattr(ClientStates, "_put", before(ClientStates._put, 8)),
    "states are deleted": lambda: setattr(ClientStates, "_delete", before(ClientStates._delete, 4)),
    "states are sealed": lambda: setattr(checkpoint, "save", before(checkpoint.save, 4)),
    "a checkpoint is half written": lambda: setattr(checkpoint, "_write", before(checkpoint._write, 4)),
    "the old ones are still there": lambda: setattr(checkpoint, "places", before(checkpoint.places, 8)),
}


def run_and_die(whole: Experiment, place: Path, moment: str) -> None:
    MOMENTS[moment]()
    simulate(whole, out=place)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither fork nor kill -9")
@pytest.mark.parametrize("held", [2**26, 1])
def test_killed_around_the_end_of_a_round_it_ends_in_the_same_bytes(
    held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "HELD_BYTES", held)
    whole = experiment()
    simulate(whole, out=tmp_path / "whole")
    for number, moment in enumerate(MOMENTS):
        process = fork.Process(target=run_and_die, args=(whole, place := tmp_path / str(number), moment))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, moment
        simulate(whole, out=place, resume=True)
        assert rows(place) == rows(tmp_path / "whole"), moment
        assert nets_of(place) == nets_of(tmp_path / "whole"), moment


def cut(whole: Experiment, place: Path, round: int) -> None:
    with pytest.raises(PowerCut):
        simulate(whole, out=place, on_round=cut_after(round))


def test_where_the_last_states_are_damaged_the_run_goes_on_from_the_round_before(tmp_path: Path) -> None:
    whole = experiment()
    simulate(whole, out=tmp_path / "whole")
    cut(whole, tmp_path / "hurt", 3)
    with sqlite3.connect(tmp_path / "hurt" / "checkpoint" / FILE) as base:
        base.execute("UPDATE parts SET content = zeroblob(9) WHERE version = (SELECT MAX(id) FROM versions)")
    with pytest.warns(Notice, match=r"round-00003 is damaged \(clients.sqlite holds other bytes .*from round 2"):
        simulate(whole, out=tmp_path / "hurt", resume=True)
    assert nets_of(tmp_path / "hurt") == nets_of(tmp_path / "whole")


def as_it_was_written_before(place: Path) -> None:
    """Checkpoints of an earlier fedkd held what the clients keep among their parts."""
    for there in checkpoint.places(place):
        found = checkpoint.load(there)
        parts = found.parts | {f"client/{client}": state for client, state in states_after(place, found.round)}
        checkpoint.save(place, Checkpoint(found.round, parts, found.note))
        assert "clients" not in json.loads((there / "manifest.json").read_text())
    (place / FILE).unlink()


def test_a_run_that_an_earlier_fedkd_began_goes_on(tmp_path: Path) -> None:
    whole = experiment()
    simulate(whole, out=tmp_path / "whole")
    cut(whole, tmp_path / "old", 2)
    as_it_was_written_before(tmp_path / "old" / "checkpoint")
    shutil.copytree(tmp_path / "old", tmp_path / "older")
    simulate(whole, out=tmp_path / "old", resume=True)
    assert rows(tmp_path / "old") == rows(tmp_path / "whole")
    assert nets_of(tmp_path / "old") == nets_of(tmp_path / "whole")
    (tmp_path / "older" / "checkpoint" / "round-00002" / "manifest.json").unlink()
    with pytest.warns(Notice, match="from round 1"):
        simulate(whole, out=tmp_path / "older", resume=True)
    assert nets_of(tmp_path / "older") == nets_of(tmp_path / "whole")


# ---- what is said of the disk


def test_the_room_is_said_before_a_run_and_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_for_states, "WORTH_SAYING", 1)
    whole = experiment(hidden=200, record={"checkpoints": 1, "best": ""}, rounds=12)
    said = r"what 12 clients keep \((\d.*) each\) takes up to (.*) MB of disk in .*final nets; .* free there"
    with pytest.warns(Notice, match=said) as notices:
        simulate(whole, out=tmp_path / "run")
    text = next(str(notice.message) for notice in notices if "of disk" in str(notice.message))
    most = 1e6 * float(text.split("up to ")[1].split(" MB")[0])
    taken = sum(file.stat().st_size for folder in ("checkpoint", "nets") for file in (tmp_path / "run" / folder).rglob("*.s*"))
    assert 0.4 * most < taken < 1.1 * most


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_for_states, "WORTH_SAYING", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000))
    with pytest.raises(InputError, match=r"^what 12 clients keep .* takes up to .*; 5.0 kB are free there: make room, give"):
        simulate(experiment(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_directory_says_where_what_it_keeps_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (room_for_states, contexts):
        monkeypatch.setattr(module, "HELD_BYTES", 10_000)
    monkeypatch.setattr(room_for_states, "WORTH_SAYING", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(Notice, match=r"in a temporary file, gone at the end; name a directory with out to keep it") as said:
        simulate(experiment())
    assert sum("temporary file" in str(notice.message) for notice in said) == 1
    assert not list(tmp_path.iterdir())


def test_of_little_nothing_is_said_and_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    monkeypatch.setattr(room_for_states, "_kept_bytes", lambda *given: tried.append(given) or 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        history = simulate(experiment(rounds=1))
    assert history.metrics and not tried


def test_clients_that_keep_nothing_have_no_database(tmp_path: Path) -> None:
    simulate(experiment(strategy="fedavg", rounds=1), out=tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint" / client_states.FILE).exists()
