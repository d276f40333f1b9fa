"""[record]: which checkpoints stay in a run's directory, and the uploads that are kept there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_going_on import cut

from fedkd import Experiment, InputError, simulate
from fedkd.base.errors import Notice
from fedkd.results.files import read_lines
from fedkd.results.statistics import best_round
from fedkd.results.uploads import read_tables, upload_files


def experiment(**changes: Any) -> Experiment:
    data = {"clients": 2, "partition": "iid", "train_limit": 40, "test_limit": 20, **changes.pop("data", {})}
    return Experiment(**{"rounds": 5, "nets": "mlp", "net_options": {"mlp": {"hidden": [4]}}, "data": data, **changes})


def kept(place: Path) -> list[int]:
    return sorted(int(each.name.removeprefix("round-")) for each in (place / "checkpoint").iterdir())


def test_the_newest_checkpoints_stay_and_the_best(tmp_path: Path) -> None:
    simulate(experiment(record={"checkpoints": 1, "best": "loss"}), out=tmp_path / "run")
    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    lowest = min(rows[1:], key=lambda row: row["loss"])["round"]
    assert kept(tmp_path / "run") == sorted({5, lowest})


def test_a_best_of_what_is_never_measured_is_said(tmp_path: Path) -> None:
    with pytest.warns(Notice, match="record.best: 'acuracy' was never measured"):
        simulate(experiment(record={"best": "acuracy"}, rounds=1), out=tmp_path / "run")


def test_without_a_best_only_the_newest_stay(tmp_path: Path) -> None:
    simulate(experiment(record={"checkpoints": 3, "best": ""}), out=tmp_path / "run")
    assert kept(tmp_path / "run") == [3, 4, 5]


def test_shares_are_best_where_they_are_highest_and_all_else_where_it_is_lowest() -> None:
    rows = [{"round": r, "accuracy": a, "loss": a} for r, a in enumerate([0.9, 0.2, 0.7, 0.7])]
    assert (best_round(rows, "accuracy"), best_round(rows, "loss"), best_round(rows, "accuracies")) == (2, 1, None)


def test_uploads_are_kept_as_the_server_read_them_and_those_of_a_lost_round_go(tmp_path: Path) -> None:
    settings = experiment(strategy="fedmd", data={"public": 12}, record={"uploads": True}, rounds=3, uplink=["float16"])
    place = cut(settings, tmp_path / "run", after=1)
    (place / "uploads" / "round-0009.safetensors").write_bytes(b"of a round that was lost")
    simulate(settings, out=place, resume=True)
    files = upload_files(place)
    assert list(files) == [1, 2, 3]
    tables = read_tables(files[3])
    assert {client: list(named) for client, named in tables.items()} == {0: ["logits"], 1: ["logits"]}
    space, logits = tables[1]["logits"]
    assert space == "logits" and logits.shape == (12, 10)
    assert torch.equal(logits, logits.half().float())  # what came through the codec


def test_a_damaged_file_of_uploads_is_named(tmp_path: Path) -> None:
    (tmp_path / "round-0001.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(InputError, match=r"round-0001.safetensors is damaged .*: bring it back from a copy"):
        read_tables(tmp_path / "round-0001.safetensors")


def test_uploads_need_a_directory() -> None:
    with pytest.raises(InputError, match=r"^record.uploads: uploads are kept in a run's directory: name one with out"):
        simulate(experiment(record={"uploads": True}))
