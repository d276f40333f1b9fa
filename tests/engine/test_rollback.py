"""A broadcast that nobody can work with is taken back, once and with a word; what failed for its own reason is left alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
from contract import Numbers, number
from flwr.app import Message

from fedkd import Client, Experiment, History, Knowledge, Server, simulate
from fedkd.base.errors import Notice, RunFailed, TrainingError
from fedkd.grids import InProcessGrid, JobGrid
from fedkd.grids.client_call import run_client
from fedkd.grids.flower import message_from_plain
from fedkd.knowledge.records import from_records, to_records
from fedkd.results.history import TIMES

pytestmark = pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")


class Poisoned(JobGrid):
    """In these rounds node 0 says of every weight what the schema just allows."""

    def __init__(self, *rounds: int, value: float = 9e5) -> None:
        super().__init__()
        self._rounds, self._value = rounds, value

    def run_jobs(self, messages: Sequence[Message], deadline: float | None) -> Iterator[Message]:
        for message in messages:
            node, asked = message.metadata.dst_node_id, message.content["fedkd.instruction"]
            reply = message_from_plain(run_client(self.client_app, message, self.context(node)))
            if not node and reply.has_content() and message.metadata.message_type == "train" and asked["round"] in self._rounds:
                said = from_records(reply.content)
                huge = {
                    name: torch.full_like(t, self._value) if t.is_floating_point() else t for name, t in said.tensors.items()
                }
                reply.content = to_records(replace(said, tensors=huge))
            yield reply


def experiment(strategy: Any = "fedavg", *, rounds: int = 5, **changes: Any) -> Experiment:
    data = {"clients": 4, "partition": "iid", "train_limit": 400}
    settings = {
        "nets": "cnn",
        "net_options": {"cnn": {"channels": [4, 8], "hidden": 16}},
        "train": {"lr": 0.1, "batch_size": 16},
    }
    return Experiment(strategy=strategy, rounds=rounds, data=data, **{**settings, **changes})


def column(history: History, key: str) -> list[Any]:
    return [row.get(key) for row in history.metrics[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "fedkd", "fedprox", "feddistill", "mean_teacher"])
def test_one_upload_of_huge_weights_costs_two_rounds_and_not_the_federation(strategy: str) -> None:
    settings = experiment(strategy, train={"lr": 0.05, "batch_size": 16})
    with pytest.warns(Notice, match=r"round 3: every client failed on the last broadcast .*: back to the last good broadcast"):
        history = simulate(settings, Poisoned(2, value=50.0 if strategy == "fedkd" else 9e5))
    assert column(history, "clients_ok") == [4, 4, 0, 4, 4]
    assert column(history, "rolled_back") == [None, None, True, None, None]
    assert history.metrics[3]["rolled_back_reason"].startswith("every client failed on the last broadcast (client 0: ")
    assert history.metrics[3]["accuracy"] == history.metrics[1]["accuracy"]  # as if the poisoned round had not been
    assert history.metrics[5]["accuracy"] > history.metrics[2]["accuracy"]


@pytest.mark.slow
def test_with_a_bound_on_the_step_it_costs_nothing() -> None:
    history = simulate(experiment(guard={"step_ratio": 50.0}), Poisoned(2, 3, 4))
    assert column(history, "clients_ok") == [4, 3, 3, 3, 4]
    assert "guard.step_ratio = 50" in history.metrics[2]["failures"]["0"]
    assert not any(column(history, "rolled_back"))


@pytest.mark.slow
def test_a_run_that_goes_back_again_and_again_says_so_each_time() -> None:
    history = simulate(experiment(rounds=6), Poisoned(*range(1, 7)))
    assert column(history, "clients_ok") == [4, 0, 4, 0, 4, 0]
    assert column(history, "rolled_back") == [None, True, None, True, None, True]


@pytest.mark.slow
def test_a_resumed_run_goes_back_as_one_that_never_stopped(tmp_path: Path) -> None:
    """It stops when the poison is in the broadcast and nobody has met it yet."""

    class Stopped(Exception):
        pass

    def stop(row: Mapping[str, Any]) -> None:
        if row["round"] == 2:
            raise Stopped

    whole = simulate(experiment("fedkd"), Poisoned(2, value=50.0))
    with pytest.raises(Stopped):
        simulate(experiment("fedkd"), Poisoned(2, value=50.0), out=tmp_path / "run", on_round=stop)
    resumed = simulate(experiment("fedkd"), Poisoned(2, value=50.0), out=tmp_path / "run", resume=True)
    rows_of = [[{**row, **dict.fromkeys(TIMES)} for row in run.metrics] for run in (resumed, whole)]
    assert rows_of[0] == rows_of[1]


@final
@dataclass(frozen=True)
class Erring(Numbers):
    """Clients send 1 and hear how many rounds the server has used; what it does goes wrong in one of them."""

    wrong: str = ""
    bad: int = 2  # from this round on
    last: int = 2

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        if self.wrong == "client" and self.bad <= client.round <= self.last:
            raise RuntimeError("no disk")
        return number(1, heard=float(broadcast.tensors["number"]) if broadcast.tensors else 0.0)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        server.memory["used"] = int(server.memory.get("used", 0)) + 1  # type: ignore[arg-type]
        if self.wrong == "training" and self.bad <= server.round <= self.last:
            raise TrainingError("server, round 2: the loss is nan")
        nan = self.wrong == "nan" and self.bad <= server.round <= self.last
        return number(torch.nan if nan else float(server.memory["used"]))  # type: ignore[arg-type]


def test_a_server_that_cannot_work_with_the_uploads_is_as_before_them() -> None:
    with pytest.warns(Notice, match="round 2: the server could not work with the uploads .*the loss is nan"):
        history = simulate(experiment(Erring("training"), rounds=4))
    assert column(history, "heard") == [0, 1, 1, 2]  # round 2 did not count, in its memory neither
    assert column(history, "rolled_back") == [None, True, None, None]
    assert column(history, "clients_ok") == [4, 4, 4, 4]


@pytest.mark.slow
def test_a_broadcast_that_is_no_number_is_taken_back_once_clients_have_met_it() -> None:
    history = simulate(experiment(Erring("nan"), rounds=4))
    assert column(history, "heard") == [0, 1, None, 1]
    assert column(history, "rolled_back") == [None, None, True, None]
    assert "metrics: 'heard' is nan, not a finite number" in history.metrics[3]["failures"]["3"]


def test_a_server_that_never_can_has_nothing_to_show() -> None:
    with pytest.raises(RunFailed, match=r"no round's uploads could be used \(round 1: .*the loss is nan"):
        simulate(experiment(Erring("training", bad=1, last=3), rounds=3))


def test_other_errors_of_a_servers_half_are_the_authors_and_end_the_run() -> None:
    @final
    @dataclass(frozen=True)
    class Mistaken(Numbers):
        def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
            return number(1)

        def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
            raise KeyError("nmber")

    with pytest.raises(KeyError, match="nmber"):
        simulate(experiment(Mistaken(), rounds=1))


def test_clients_that_fail_before_any_has_worked_have_nothing_to_go_back_to() -> None:
    history = simulate(experiment(Erring("client", bad=1), rounds=3))
    assert column(history, "clients_ok") == [0, 0, 4]
    assert not any(column(history, "rolled_back"))


def test_a_broadcast_that_somebody_has_worked_with_is_not_taken_back() -> None:
    """In round 3 all fail: the broadcast of round 2 goes. In round 4 they fail again: that of round 1 had served well."""
    history = simulate(experiment(Erring("client", bad=3, last=4), rounds=5))
    assert column(history, "heard") == [0, 1, None, None, 1]
    assert column(history, "rolled_back") == [None, None, True, None, None]


@pytest.mark.parametrize("faults", [{"crash": 1.0}, {"nan": 1.0}, {"straggle": 1.0}, {"dropout": 1.0}])
def test_simulated_faults_and_lateness_say_nothing_of_the_broadcast(faults: dict[str, float]) -> None:
    from fedkd.experiment.algorithm import participation

    draw = participation.draw_fault
    late = {round: next(iter(faults)) for round in (2, 3)}
    with pytest.MonkeyPatch.context() as patch:
        for module in ("experiment.algorithm.participation", "engine.training_round", "engine.rollback", "engine.adversity"):
            patch.setattr(
                f"fedkd.{module}.draw_fault", lambda experiment, round, client: late.get(round, draw(experiment, round, client))
            )
        history = simulate(experiment(Erring(), rounds=4), InProcessGrid())
    assert column(history, "clients_ok") == [4, 0, 0, 4]
    assert not any(column(history, "rolled_back"))
    assert column(history, "heard") == [0, None, None, 1]


def test_one_client_alone_is_no_evidence() -> None:
    """One of four takes part in a round; whoever does in round 2 fails: another one says in round 3 that all is well."""
    history = simulate(experiment(Erring("client"), rounds=4, participation=0.25))
    assert column(history, "clients_ok") == [1, 0, 1, 1]
    assert column(history, "heard") == [0, None, 1, 2]
