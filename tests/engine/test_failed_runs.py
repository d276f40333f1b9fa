"""A run in which nobody learned does not end well: from Python, from the command line, in a ServerApp of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import pytest
from contract import Numbers, number
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from grids.renumbered import RenumberedGrid
from test_every_strategy import NAMES, small

from fedkd import Client, Experiment, History, Knowledge, Node, Server, Strategy, simulate
from fedkd.base.errors import InputError, Notice, RunFailed
from fedkd.experiment.algorithm.participation import draw_fault
from fedkd.grids import InProcessGrid, JobGrid
from fedkd.results.files import read_lines
from fedkd.results.recorded import RecordedRun
from fedkd.testing.strategy_in_flower import in_own_server_app

DISK = "OSError: the disk is full"


@final
@dataclass(frozen=True)
class Failing(Numbers):
    """Every client fails in rounds ``first`` to ``last``; with ``scored``, in evaluation instead."""

    first: int = 1
    last: int = 99
    scored: bool = False

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        if not self.scored and self.first <= client.round <= self.last:
            raise OSError("the disk is full")
        return number(client.id)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        return number(0)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, object]:  # type: ignore[override]
        if self.scored and isinstance(node, Client):
            raise OSError("the disk is full")
        return {}


def experiment(strategy: Strategy | str | Mapping[str, object], *, rounds: int = 3, **changes: object) -> Experiment:
    data = {"clients": 3, "partition": "iid", "train_limit": 60}
    return Experiment(**{"strategy": strategy, "rounds": rounds, "nets": "mlp", "data": data, **changes})  # type: ignore[arg-type]


def fails(run: Callable[[], object], reason: str) -> RunFailed:
    """The error, after a look at its line."""
    with pytest.raises(RunFailed) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        run()
    assert reason in str(caught.value) and len(str(caught.value).splitlines()) == 1
    return caught.value


def test_a_run_in_which_all_fail_names_round_client_and_reason_on_every_grid(make_grid: Callable[[], JobGrid]) -> None:
    failure = fails(lambda: simulate(experiment(Failing()), make_grid()), f"(round 1, client 0: {DISK})")
    assert str(failure).startswith("no client's upload counted in any round")
    assert [row["clients_failed"] for row in failure.history.metrics] == [0, 3, 3, 3]
    assert "in client_update" in failure.history.clients[0]["reason"]  # with its traceback


@pytest.mark.parametrize("name", NAMES)
def test_whatever_the_strategy_a_run_that_all_drop_out_of_has_failed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Experiment, "evaluates", lambda experiment, round: False)  # only to be quick
    changed = small(name, rounds=1).replace(faults={"dropout": 1.0})
    fails(lambda: simulate(changed), "(round 1, client 0: dropped out (simulated))")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"strategy": "fedavg", "faults": {"nan": 1.0}}, "client 0: upload rejected"),
        ({"strategy": "local", "faults": {"crash": 1.0}}, "crashed (simulated)"),
        ({"strategy": "fedavg", "faults": {"straggle": 1.0}}, "came late"),
        ({"strategy": "fedmd", "faults": {"dropout": 1.0}, "data": {"clients": 2, "public": 20, "train_limit": 60}}, "dropped"),
        ({"strategy": "fedprox", "train": {"lr": 1e30, "epochs": 3}}, "TrainingError: client 0, round 1"),
    ],
)
def test_faults_and_training_that_diverges_are_such_reasons(changes: dict[str, object], reason: str) -> None:
    fails(lambda: simulate(experiment(**{"rounds": 2, **changes})), reason)  # type: ignore[arg-type]


def notices(run: Callable[[], History]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Notice)
        run()
    return [str(warning.message) for warning in caught if warning.category is Notice]


@pytest.mark.slow
def test_lost_rounds_are_said_the_first_of_a_row_in_full() -> None:
    said = notices(lambda: simulate(experiment(Failing(first=2, last=6), rounds=8)))
    assert [text for text in said if "upload counted" in text] == [
        f"round 2: no client's upload counted (client 0: {DISK}); all reasons: history.clients",
        "rounds 2 to 3: no client's upload counted",
        "rounds 2 to 5: no client's upload counted",
    ]


@pytest.mark.slow
def test_a_round_in_which_a_late_upload_is_used_is_not_lost() -> None:
    """One client, late in rounds 2 and 3: round 3 uses what it sent in round 2."""
    data = {"clients": 1, "partition": "iid", "train_limit": 60}
    settings = experiment(Failing(first=99), data=data, faults={"straggle": 0.5}, late_rounds=1)
    faults = [
        [draw_fault(settings.replace(seed=s), r, 0) for r in (1, 2, 3)] == ["", "straggle", "straggle"] for s in range(40)
    ]
    drawn = settings.replace(seed=faults.index(True))
    said = notices(lambda: simulate(drawn))
    assert said == ["round 2: no client's upload counted (client 0: its upload came late); all reasons: history.clients"]


def test_a_strategy_that_sends_nothing_does_not_fail_by_it() -> None:
    assert simulate(experiment("local", rounds=1)).metrics[1]["clients_ok"] == 3


def test_nothing_that_could_be_evaluated_is_a_failed_run_and_nothing_to_evaluate_is_none() -> None:
    failure = fails(lambda: simulate(experiment(Failing(scored=True))), f"(round 1, client 0: {DISK})")
    assert str(failure).startswith("nothing could be evaluated")
    assert simulate(experiment(Failing(first=99), rounds=1)).metrics[1]["clients_ok"] == 3


@pytest.mark.slow
def test_what_was_written_stays_and_does_not_look_finished(tmp_path: Path) -> None:
    place = tmp_path / "run"
    failure = fails(lambda: simulate(experiment(Failing()), out=place), str(place / "clients.jsonl"))
    assert read_lines(place / "metrics.jsonl") == failure.history.metrics
    assert not (place / "report.html").exists() and not (place / "nets").exists()
    assert not RecordedRun.read(place).finished and DISK in RecordedRun.read(place).failure
    again = fails(lambda: simulate(experiment(Failing()), out=place, resume=True), DISK)
    assert len(again.history.metrics) == 4


class PowerCut(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(("first", "last", "failed"), [(1, 99, True), (3, 99, False), (1, 2, False)])
def test_a_resumed_run_counts_the_rounds_before(first: int, last: int, failed: bool, tmp_path: Path) -> None:
    def cut(row: Mapping[str, object]) -> None:
        if row["round"] == 2:
            raise PowerCut

    whole = experiment(Failing(first, last), rounds=4)
    with pytest.raises(PowerCut), pytest.warns(Notice) if first == 1 else warnings.catch_warnings():
        simulate(whole, out=tmp_path / "run", on_round=cut)
    if failed:
        fails(lambda: simulate(whole, out=tmp_path / "run", resume=True), "round 1, client 0")
    else:
        with pytest.warns(Notice) if first == 3 else warnings.catch_warnings():
            history = simulate(whole, out=tmp_path / "run", resume=True)
        assert [row["clients_ok"] for row in history.metrics[1:]] == [0 if first <= r <= last else 3 for r in (1, 2, 3, 4)]


@pytest.mark.slow
def test_elsewhere_a_round_in_which_nobody_is_asked_waits_for_nobody() -> None:
    """The clock would say no with a timeout of an hour."""
    dropped = experiment("fedavg", faults={"dropout": 1.0}, rounds=2, enough=0.5)
    fails(lambda: simulate(dropped, RenumberedGrid({10: {}, 20: {}, 30: {}})), "dropped out")  # type: ignore[arg-type]


@pytest.mark.slow
def test_start_in_a_server_app_of_ones_own_fails_as_well() -> None:
    dropped = small("fedavg").replace(faults={"dropout": 1.0})
    fails(lambda: in_own_server_app(dropped, dropped.strategy.start), "round 1, client 0: dropped out")


def test_so_does_flowers_loop_after_the_last_round_of_the_config() -> None:
    dropped = small("fedavg").replace(faults={"dropout": 1.0}, rounds=2)
    fails(lambda: in_own_server_app(dropped, partial(FlowerStrategy.start, dropped.strategy)), "round 1, client 0: dropped out")
    endless = dropped.replace(rounds=20)  # the loop makes two rounds: the config did not say so
    with pytest.warns(Notice, match="round 1: no client's upload counted"):
        result = in_own_server_app(endless, partial(FlowerStrategy.start, endless.strategy))
    assert not result.arrays and not result.train_metrics_clientapp


@pytest.mark.parametrize("name", ["evaluate_config", "should_stop"])
def test_what_start_has_no_use_for_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: "):
        Experiment(strategy="fedavg").strategy.start(InProcessGrid(), **{name: ConfigRecord({"batches": 3})})
