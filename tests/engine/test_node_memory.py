"""In a deployment a killed run goes on with clients as they were, where nodes have a directory for what they keep."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from grids.renumbered import RenumberedGrid
from test_resume import PowerCut, cut_after, rows

from fedkd import Experiment, simulate
from fedkd.base.errors import Notice
from fedkd.engine.instruction import RUN
from fedkd.engine.node_memory import KEY, keep_on_disk, note_run

RUNS: dict[str, dict[str, Any]] = {
    "logits": {"strategy": "fedmd"},
    "codecs": {"strategy": "dsfl", "uplink": ["delta", "deflate"], "downlink": ["delta"]},
    "absent": {"strategy": "fedmd", "participation": 0.5},
}


def experiment(name: str) -> Experiment:
    data = {"clients": 2, "partition": "iid", "train_limit": 60, "test_limit": 20, "public": 10}
    nets = {"nets": {"mlp": 0.5, "cnn": 0.5}, "net_options": {"mlp": {"hidden": [4]}, "cnn": {"channels": [2], "hidden": 4}}}
    return Experiment(rounds=5, data=data, train={"momentum": 0.5, "batch_size": 16}, **nets, **RUNS[name])


class CutGrid(RenumberedGrid):
    """The power goes when the so many-th exchange of training has been answered and nobody has read the answers."""

    def __init__(self, configs: dict[int, dict[str, Any]], exchanges: int) -> None:
        super().__init__(configs)
        self._left = exchanges

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        asked = list(messages)
        ids = super().push_messages(asked)
        self._left -= asked[0].metadata.message_type == "train"
        if not self._left:
            raise PowerCut
        return ids


def nodes(place: Path | None) -> dict[int, dict[str, Any]]:
    """Node 9 is client 1 and node 7 client 0; each has a directory of its own below ``place``."""
    where = {node: {KEY: str(place / str(node))} if place else {} for node in (7, 9)}
    return {node: {"partition-id": number, **where[node]} for number, node in enumerate(where)}


@pytest.mark.slow
@pytest.mark.parametrize("exchanges", [3, 6, 9])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_cut_in_mid_round_ends_in_the_rows_of_the_unbroken_one(
    name: str, exchanges: int, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    whole = experiment(name)
    simulate(whole, RenumberedGrid(nodes(None)), out=tmp_path / "whole")
    with pytest.raises(PowerCut):
        simulate(whole, CutGrid(nodes(tmp_path / "kept"), exchanges), out=tmp_path / "pieces")
    simulate(whole, RenumberedGrid(nodes(tmp_path / "kept")), out=tmp_path / "pieces", resume=True)
    assert rows(tmp_path / "pieces") == rows(tmp_path / "whole")
    assert not [each for each in recwarn if "go on without" in str(each.message)]


def cut(place: Path, *, after: int = 3, name: str = "codecs") -> Experiment:
    """A run that was cut off after a round, and the settings that it goes on with."""
    whole = experiment(name)
    with pytest.raises(PowerCut):
        simulate(whole, RenumberedGrid(nodes(place / "kept")), out=place / "run", on_round=cut_after(after))
    return whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda kept: shutil.rmtree(kept), "clients 0, 1 go on .* client 0: its node's memory-path holds nothing of this run"),
        (lambda kept: shutil.rmtree(kept / "9"), "clients 1 go on .* client 1: its node's memory-path holds nothing"),
        (lambda kept: damage(kept / "7"), r"clients 0 go on .* client 0: round-00003 in its node's memory-path is damaged: a"),
        (lambda kept: exchange(kept / "7", kept / "9"), "clients 0, 1 go on .* holds the memory of another client"),
    ],
    ids=["gone", "one gone", "damaged", "exchanged"],
)
def test_what_is_lost_is_said_and_the_run_goes_on(harm: Any, told: str, tmp_path: Path) -> None:
    whole = cut(tmp_path)
    harm(tmp_path / "kept")
    with pytest.warns(Notice, match=told):
        history = simulate(whole, RenumberedGrid(nodes(tmp_path / "kept")), out=tmp_path / "run", resume=True)
    assert [row["clients_ok"] for row in history.metrics[1:]] == [2] * 5  # codecs too begin anew at both ends


def damage(kept: Path) -> None:
    for file in kept.rglob("arrays.safetensors"):
        file.write_bytes(b"x" + file.read_bytes()[1:])


def exchange(one: Path, other: Path) -> None:
    one.rename(beside := one.with_name("beside"))
    other.rename(one)
    beside.rename(other)


@pytest.mark.slow
def test_nodes_without_a_directory_lose_what_they_kept_and_it_is_said(tmp_path: Path) -> None:
    whole = cut(tmp_path)
    with pytest.warns(Notice, match="its node's config has no memory-path; name a directory as memory-path"):
        history = simulate(whole, RenumberedGrid(nodes(None)), out=tmp_path / "run", resume=True)
    assert history.metrics[-1]["clients_ok"] == 2


@pytest.mark.parametrize("number", ["../../etc", "", 7, "A" * 32, "0" * 33, "0" * 31 + "/"])
def test_a_server_cannot_name_another_place_than_a_number_below_the_directory(number: object, tmp_path: Path) -> None:
    context = Context(1, 7, {KEY: str(tmp_path)}, RecordDict(), {})
    content = RecordDict({"fedkd.instruction": ConfigRecord({RUN: number})})  # type: ignore[dict-item]
    note_run(type("Asked", (), {"content": content})(), context)
    keep_on_disk(context, None)  # type: ignore[arg-type]  # nothing is kept, so nobody is asked
    assert not any(tmp_path.iterdir())
    assert (RUN in context.state) is (number == ""), "a run without a number is noted too: it keeps nothing on disk"
