"""Rounds without a cohort: who comes in when, and how stale, worked out by hand; the same on every engine and when resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest
import torch
from contract import Counting, Numbers, number
from grids.renumbered import RenumberedGrid

from fedkd import Client, Experiment, History, InputError, Knowledge, RunFailed, Server, TensorSpec, simulate
from fedkd.engine.clock.stale import rebased
from fedkd.grids import JobGrid
from fedkd.results.files import read_lines
from fedkd.results.history import TIMES

#: A thousand operations a second, and a network that takes next to no time.
QUICK = {"devices": "quick", "profiles": {"quick": {"gflops": 1e-6, "up": 1e9, "down": 1e9}}}


@final
@dataclass(frozen=True)
class Seconds(Numbers):
    """Client k works for k + 1 seconds, and tells which broadcast it was sent: each is the number of its round."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        _ = torch.ones(5, 10) @ torch.ones(10, 10 * (client.id + 1))
        return number(client.id, heard=float(broadcast.tensors["number"]) if broadcast.tensors else 0.0)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        assert list(uploads) == sorted(uploads)
        return number(server.round)


def experiment(strategy: Any = None, *, clients: int = 3, rounds: int = 5, buffer: int = 1, **changes: Any) -> Experiment:
    data = {"clients": clients, "partition": "iid", "train_limit": 120}
    keys = {"strategy": strategy or Seconds(), "rounds": rounds, "nets": "mlp", "net_options": {"mlp": {"hidden": [4]}}}
    asynchrony = {"buffer": buffer, **changes.pop("asynchrony", {})}
    return Experiment(**{**keys, "data": data, "clock": QUICK, "participation": "async", "asynchrony": asynchrony, **changes})


def came_in(history: History) -> list[tuple[int, int, int]]:
    """Round, client and staleness of each upload that counted."""
    return [(r["round"], r["client"], r["upload_staleness"]) for r in history.clients if "upload_staleness" in r]


def rows(history: History) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in history.metrics + history.clients]


def test_uploads_come_in_by_the_clock_as_one_works_out_by_hand() -> None:
    """All begin at 0. Client 0 comes at 1, 2, 3 ..., each time a little later for its bytes; client 1 at 2, client 2 at 3."""
    history = simulate(experiment())
    assert came_in(history) == [(1, 0, 0), (2, 1, 1), (3, 0, 1), (4, 2, 3), (5, 0, 1)]
    assert [row["simulated_seconds"] for row in history.metrics] == pytest.approx([0, 1, 1, 0, 1, 0], abs=1e-6)
    heard = {row["round"]: row["heard"] for row in history.clients if "heard" in row}
    assert heard == {1: 0.0, 2: 0.0, 3: 1.0, 4: 0.0, 5: 3.0}  # the newest broadcast when each began
    assert [row.get("upload_staleness") for row in history.metrics] == [None, 0, 1, 1, 3, 1]


def test_a_stale_upload_counts_for_less() -> None:
    """By its weight where it is no step from a broadcast, as numbers are none."""
    history = simulate(experiment())
    weights = [row["weight"] for row in history.clients if "weight" in row]
    assert weights == pytest.approx([1, 2**-0.5, 2**-0.5, 0.5, 2**-0.5])
    alike = simulate(experiment(asynchrony={"staleness": 0.0}))
    assert [row["weight"] for row in alike.clients if "weight" in row] == [1.0] * 5


def test_of_those_that_come_at_one_moment_the_lower_id_is_first() -> None:
    """Nobody computes anything: whoever begins at one moment comes in at one moment."""
    history = simulate(experiment(Counting(exchanges=1), rounds=2, buffer=2))
    assert came_in(history) == [(1, 0, 0), (1, 1, 0), (2, 0, 0), (2, 2, 1)]


def test_one_at_a_time_follows_upon_the_other() -> None:
    """In each round the first two of a seeded order, one after the other; nobody is ever stale."""
    history = simulate(experiment(buffer=2, asynchrony={"concurrency": 1}))
    assert all(staleness == 0 for _, _, staleness in came_in(history))
    for row in history.metrics[1:]:
        assert row["clients_ok"] == 2
        worked = sum(client + 1 for round, client, _ in came_in(history) if round == row["round"])
        assert row["simulated_seconds"] == pytest.approx(worked, abs=1e-6)


@pytest.mark.slow
def test_whoever_fails_makes_room_for_the_next_and_the_buffer_is_filled_all_the_same() -> None:
    history = simulate(experiment(clients=8, buffer=3, faults={"crash": 0.2, "dropout": 0.2}, asynchrony={"concurrency": 4}))
    assert [row["clients_ok"] for row in history.metrics] == [0, 3, 3, 3, 3, 3]
    reasons = {row["reason"].splitlines()[0] for row in history.clients if row.get("status") == "failed"}
    assert any("crashed" in reason for reason in reasons) and any("dropped out" in reason for reason in reasons)


def test_where_everyone_fails_the_run_does() -> None:
    with pytest.raises(RunFailed, match="no client's upload counted in any round"):
        simulate(experiment(rounds=2, faults={"dropout": 1.0}))


MIXED = {"clock": {"devices": {"phone": 0.5, "laptop": 0.5}}, "clients": 6, "buffer": 2, "asynchrony": {"concurrency": 4}}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg", "fd"])
def test_the_same_on_every_grid(name: str, make_grid: Callable[[], JobGrid]) -> None:
    whole = experiment(name, **MIXED, faults={"crash": 0.1})
    assert rows(simulate(whole, make_grid())) == rows(simulate(whole))


class PowerCut(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"uplink": ["float16", "delta"], "downlink": ["float16"]}], ids=["plain", "coded"])
def test_a_run_that_is_gone_on_with_equals_the_unbroken_one(changes: dict[str, Any], tmp_path: Path) -> None:
    whole = experiment("fedavg", **MIXED, **changes)
    simulate(whole, out=tmp_path / "whole")

    for resume, last in ((False, 1), (True, 3)):

        def cut(row: dict[str, Any], last: int = last) -> None:
            if row["round"] == last:
                raise PowerCut

        with pytest.raises(PowerCut):
            simulate(whole, out=tmp_path / "pieces", resume=resume, on_round=cut)
    simulate(whole, out=tmp_path / "pieces", resume=True)
    logs = ("metrics.jsonl", "clients.jsonl")
    lines = [[read_lines(tmp_path / place / log) for log in logs] for place in ("whole", "pieces")]
    without_times = [[{k: v for k, v in row.items() if k not in TIMES} for log in each for row in log] for each in lines]
    assert without_times[0] == without_times[1]
    assert (tmp_path / "whole" / "nets" / "global.safetensors").read_bytes() == (
        tmp_path / "pieces" / "nets" / "global.safetensors"
    ).read_bytes()


def test_a_part_of_what_a_stale_client_changed_is_added_to_the_newest_weights() -> None:
    def weights(value: float, variance: float) -> Knowledge:
        return Knowledge.of("weights", {"w": torch.tensor([value]), "running_var": torch.tensor([variance])})

    schema = {
        "w": TensorSpec((1,), torch.float32, "weights"),
        "running_var": TensorSpec((1,), torch.float32, "weights", low=0.0),
    }
    now = rebased(weights(3.0, 0.1), weights(1.0, 5.0), weights(10.0, 1.0), schema, share=0.5)
    assert now is not None
    assert now.tensors["w"].item() == 10 + 0.5 * (3 - 1)
    assert now.tensors["running_var"].item() == pytest.approx(0.1)  # 1 + 0.1 - 5 would be no variance
    logits = Knowledge.of("logits", {"w": torch.ones(1)})
    assert rebased(logits, logits, logits, schema, share=0.5) is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"strategy": Counting(), "asynchrony": {"buffer": 2}}, 'participation = "async": uploads of Counting make sense in'),
        ({"clock": {}}, 'participation = "async": it goes by the virtual clock: set clock.devices'),
        ({"buffer": 0}, 'participation = "async": asynchrony.buffer says how many uploads make a round: set it'),
        ({"buffer": 4}, "asynchrony.buffer = 4: there are 3 clients: set it to at most 3"),
        ({"asynchrony": {"concurrency": 9}}, "asynchrony.concurrency = 9: there are 3 clients"),
        ({"participation": "asink"}, 'participation: give a share of the clients, above 0 and up to 1, or "async"; got'),
        ({"participation": 0}, "participation: give a share of the clients"),
        ({"participation": True}, "participation: give a share of the clients"),
        ({"participation": 0.5}, 'asynchrony.buffer = 1 does nothing here: participation is not "async"'),
        ({"enough": 0.5}, 'enough = 0.5 does nothing here: with participation = "async" no exchange is waited for'),
        ({"clock": {**QUICK, "deadline": 3.0}}, "clock.deadline = 3.0 does nothing here"),
        ({"late_rounds": 1}, "late_rounds = 1 does nothing here"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        experiment(**keys)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_in_a_deployment_it_is_refused() -> None:
    with pytest.raises(InputError, match='participation = "async": the clients are nodes of a deployment'):
        simulate(experiment(), RenumberedGrid({node: {} for node in (10, 20, 30)}))
