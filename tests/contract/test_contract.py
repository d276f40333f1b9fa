"""What a strategy may rely on, shown with strategies of a few numbers (tests/contract/contract.py)."""

from __future__ import annotations

import pytest
import torch
from contract import Counting, LeaveOneOut, Misbehaving, TwoNets
from grids.forgetful import ForgetfulGrid

from fedkd import Experiment, History, Strategy, simulate
from fedkd.base.errors import Notice
from fedkd.grids import InProcessGrid
from fedkd.results.history import TIMES


def run(strategy: Strategy, grid: object = None, *, clients: int = 3, rounds: int = 2, **changes: object) -> History:
    data = {"clients": clients, "partition": "iid", "train_limit": 60}
    return simulate(Experiment(strategy=strategy, rounds=rounds, data=data, **changes), grid)


def column(history: History, key: str, round: int) -> list[float]:
    return [row[key] for row in history.clients if row["round"] == round and key in row]


def test_each_client_hears_its_own_broadcast() -> None:
    """Clients send 1, 2, 3; with its own number left out, each hears 5, 4, 3 in round 2."""
    history = run(LeaveOneOut())
    assert column(history, "heard", 1) == [0, 0, 0]
    assert column(history, "heard", 2) == [5, 4, 3]


@pytest.mark.parametrize("grid", [InProcessGrid, ForgetfulGrid])
def test_memory_lives_on_over_rounds_and_live_values_within_one(grid: type) -> None:
    history = run(Counting(), grid(), rounds=2)
    assert column(history, "calls", 1) == [3, 3, 3]  # three exchanges a round; the row holds the last
    assert column(history, "calls", 2) == [6, 6, 6]


def test_random_streams_depend_on_who_asks_and_what_for() -> None:
    history = run(Counting(exchanges=1))
    for round in (1, 2):
        assert len(set(column(history, "draw", round))) == 1  # shared: equal at all clients
        assert len(set(column(history, "own", round))) == 3
    assert column(history, "draw", 1) != column(history, "draw", 2)


@pytest.mark.parametrize("grid", [InProcessGrid, ForgetfulGrid])
def test_nets_and_optimisers_are_kept_by_name(grid: type) -> None:
    history = run(TwoNets(), grid(), rounds=2)
    first, second = column(history, "held", 1), column(history, "held", 2)
    assert first != second  # the net of round 2 is the trained one of round 1, not a fresh one
    assert all(a < b for a, b in zip(column(history, "moving", 1), [1e9] * 3, strict=True))
    assert len(set(first)) == 3  # initialised for each client alone


@pytest.mark.slow
def test_a_grid_that_forgets_gives_the_same_metrics() -> None:
    for strategy in (LeaveOneOut(), Counting(), TwoNets()):
        rows = [run(strategy, grid).metrics for grid in (InProcessGrid(), ForgetfulGrid())]
        assert without_times(rows[0]) == without_times(rows[1])


def without_times(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("nan", "not finite"),
        ("shape", "has shape (1, 3), expected (1)"),
        ("dtype", "has dtype torch.float64"),
        ("space", "holds logits, expected embedding"),
        ("name", "missing or unexpected"),
        ("weight", "training samples"),
        ("size", "more than the"),
    ],
)
def test_a_bad_reply_loses_that_client_that_round_and_never_the_round(fault: str, reason: str) -> None:
    history = run(Misbehaving(fault=fault), clients=5, rounds=1)
    row = history.metrics[1]
    assert (row["clients_ok"], row["clients_failed"], row["clients_late"]) == (3, 2, 0)
    assert reason in row["failures"]["1"]
    assert row["failures"]["2"] == "RuntimeError: the disk of client 2 is full"
    traceback = next(r["reason"] for r in history.clients if r["round"] == 1 and r["client"] == 2)
    assert "in client_update" in traceback  # the original traceback, not Flower's


def test_a_round_in_which_all_fail_keeps_the_last_broadcast() -> None:
    """In round 2 nobody answers: in round 3 the clients still hear what round 1 left."""

    class Broken(InProcessGrid):
        def run_jobs(self, messages, timeout):  # type: ignore[no-untyped-def]
            return iter(()) if messages[0].metadata.group_id == "2" else super().run_jobs(messages, timeout)

    with pytest.warns(Notice, match="round 2: no client's upload counted"):
        history = run(LeaveOneOut(), Broken(), rounds=3)
    assert [row["clients_late"] for row in history.metrics] == [0, 0, 3, 0]
    assert [row["clients_ok"] for row in history.metrics] == [0, 3, 0, 3]
    assert column(history, "heard", 3) == [5, 4, 3]


def test_participation_is_a_seeded_draw_in_order_of_client_id() -> None:
    history = run(Counting(exchanges=1), clients=10, rounds=3, participation=0.3)
    cohorts = [[row["client"] for row in history.clients if row["round"] == round and "calls" in row] for round in (1, 2, 3)]
    assert all(len(cohort) == 3 and cohort == sorted(cohort) for cohort in cohorts)
    assert len({tuple(cohort) for cohort in cohorts}) > 1
    again = run(Counting(exchanges=1), clients=10, rounds=3, participation=0.3)
    assert without_times(history.metrics) == without_times(again.metrics)


def test_simulating_leaves_torch_as_it_was() -> None:
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    run(TwoNets())
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_live_nets_are_bounded_in_number_and_those_put_out_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for two live clients, the third's first exchange writes the first client's nets to its memory."""
    from fedkd.engine import client_half

    plain = run(TwoNets(), clients=5)
    monkeypatch.setattr(client_half, "LIVE_CLIENTS", 2)
    assert without_times(run(TwoNets(), clients=5).metrics) == without_times(plain.metrics)
    assert len(client_half._LIVE) <= 2
