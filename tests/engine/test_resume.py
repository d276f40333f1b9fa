"""A run that was cut off goes on from its last checkpoint and ends in the very metrics of an unbroken one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract import Counting, TwoNets

from fedkd import Experiment, InputError, simulate
from fedkd.experiment.registry import strategies
from fedkd.grids import JobGrid
from fedkd.results.files import read_lines
from fedkd.results.history import TIMES

RUNS = {
    "client memories": {"strategy": "local"},
    "server memory": {"strategy": Counting()},
    "kept nets and optimisers": {"strategy": TwoNets()},
    "absent clients": {"strategy": TwoNets(), "participation": 0.5},
    "a cosine schedule": {"strategy": "fedx", "train": {"schedule": "cosine"}},
}
#: Peers, whose nets live through rounds of several exchanges, with momentum and batch statistics.
PEERS = sorted(name for name, cls in strategies().items() if cls.needs.shared_data)


def experiment(**changes: Any) -> Experiment:
    data = {"clients": 4, "partition": "iid", "train_limit": 80, **changes.pop("data", {})}
    options = {"mlp": {"hidden": [8]}, "resnet18": {"width": 4}}
    return Experiment(**{"rounds": 4, "nets": "mlp", "net_options": options, "data": data, **changes})


def rows(place: Path) -> list[dict[str, Any]]:
    logs = [read_lines(place / name) for name in ("metrics.jsonl", "clients.jsonl")]
    return [{key: value for key, value in row.items() if key not in TIMES} for log in logs for row in log]


class PowerCut(Exception):
    pass


def cut_after(round: int) -> Any:
    """Called with each row: the lights go out when that round is written."""

    def on_round(row: dict[str, Any]) -> None:
        if row["round"] == round:
            raise PowerCut

    return on_round


def run_in_pieces(whole: Experiment, place: Path, *, cuts: tuple[int, ...], grid: JobGrid | None = None) -> None:
    for i, round in enumerate(cuts):
        with pytest.raises(PowerCut):
            simulate(whole, grid, out=place, resume=i > 0, on_round=cut_after(round))
    history = simulate(whole, grid, out=place, resume=True)
    assert [row["round"] for row in history.metrics] == list(range(whole.rounds + 1))


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.slow
def test_a_resumed_run_equals_the_unbroken_one(name: str, tmp_path: Path) -> None:
    whole = experiment(**RUNS[name])
    simulate(whole, out=tmp_path / "whole")
    run_in_pieces(whole, tmp_path / "pieces", cuts=(0, 2))
    assert rows(tmp_path / "pieces") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_codecs_go_on_with_their_bases(tmp_path: Path) -> None:
    """Both ends must remember the same last acknowledged upload, or the sums of differences go wrong."""
    whole = experiment(strategy="fedavg", uplink=["float16", "delta"])
    simulate(whole, out=tmp_path / "whole")
    run_in_pieces(whole, tmp_path / "pieces", cuts=(1, 2))
    assert rows(tmp_path / "pieces") == rows(tmp_path / "whole")
    assert all(row["clients_ok"] == 4 for row in rows(tmp_path / "pieces")[1:5])


@pytest.mark.slow
def test_a_run_cut_on_ray_equals_the_unbroken_one_in_process(tmp_path: Path, hired: Callable[[], JobGrid]) -> None:
    whole = experiment(**RUNS["absent clients"])
    simulate(whole, out=tmp_path / "whole")
    run_in_pieces(whole, tmp_path / "pieces", cuts=(2,), grid=hired())
    assert rows(tmp_path / "pieces") == rows(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", *PEERS])
def test_final_nets_of_a_resumed_run_are_those_of_the_unbroken_one(name: str, tmp_path: Path) -> None:
    peers = {"nets": "resnet18", "data": {"partition": "shared"}} if name in PEERS else {}
    whole = experiment(strategy=name, rounds=2, **peers)
    simulate(whole, out=tmp_path / "whole")
    run_in_pieces(whole, tmp_path / "pieces", cuts=(1,))
    nets = [{file.name: file.read_bytes() for file in (tmp_path / place / "nets").iterdir()} for place in ("whole", "pieces")]
    assert nets[0] == nets[1]
    assert len(nets[0]) == 4
    assert rows(tmp_path / "pieces") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_a_directory_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    simulate(experiment(rounds=1), out=tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(InputError, match="run"):
        simulate(experiment(rounds=1), out=tmp_path / "run")
    with pytest.raises(InputError, match="holds no run"):
        simulate(experiment(rounds=1), out=tmp_path / "nowhere", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    assert not (tmp_path / "nowhere").exists()
