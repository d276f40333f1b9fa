"""Faults, late replies, attacks and noise are keys of the experiment, drawn by the seed, for any strategy as it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import pytest
import torch
from contract import Counting, LeaveOneOut, Numbers, number
from grids.apps import jump
from grids.renumbered import RenumberedGrid

from fedkd import Client, Experiment, History, InputError, Knowledge, Server, Strategy, TensorSpec, simulate
from fedkd.experiment.algorithm.participation import attackers, draw_fault, draw_in_time, enough_of
from fedkd.grids import JobGrid, client_call


def run(strategy: Strategy | str, *, clients: int = 10, rounds: int = 3, **changes: object) -> History:
    return simulate(experiment(strategy, clients=clients, rounds=rounds, **changes))


def experiment(strategy: Strategy | str, *, clients: int = 10, rounds: int = 3, **changes: object) -> Experiment:
    data = {"clients": clients, "partition": "iid", "train_limit": 200}
    return Experiment(strategy=strategy, rounds=rounds, nets="mlp", **{"data": data, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("dropout", "failed", "dropped out (simulated)"),
        ("crash", "failed", "crashed (simulated)"),
        ("nan", "failed", "not finite"),
        ("straggle", "late", "came late"),
    ],
)
def test_a_fault_strikes_the_clients_that_the_seed_draws(fault: str, status: str, reason: str) -> None:
    history = run(LeaveOneOut(), faults={fault: 0.4})
    struck = [(row["round"], row["client"]) for row in history.clients if row.get("status") == status]
    settings = experiment(LeaveOneOut(), faults={fault: 0.4})
    assert struck == [(round, c) for round in (1, 2, 3) for c in range(10) if draw_fault(settings, round, c) == fault]
    assert 0 < len(struck) < 30
    assert all(reason in row["reason"] for row in history.clients if row.get("status") == status)


@pytest.mark.slow
def test_every_fault_leaves_the_same_broadcasts_to_the_others() -> None:
    """Client k hears the sum of the others that took part, whichever way the rest was lost."""
    heard = []
    for fault in ("dropout", "crash", "nan", "straggle"):
        history = run(LeaveOneOut(), faults={fault: 0.4})
        heard.append(
            {
                (row["round"], row["client"]): row["heard"]
                for row in history.clients
                if row.get("status") == "ok" and "heard" in row
            }
        )
    assert heard[0] == heard[1] == heard[2] == heard[3]


def test_faults_that_sum_to_more_than_one_are_refused() -> None:
    with pytest.raises(InputError, match="faults: the probabilities sum to more than 1"):
        Experiment(faults={"dropout": 0.7, "crash": 0.7})


def test_k_of_n_the_first_replies_end_the_wait() -> None:
    history = run(LeaveOneOut(), enough=0.7)
    assert [row["clients_ok"] for row in history.metrics[1:]] == [7, 7, 7]
    assert [row["clients_late"] for row in history.metrics[1:]] == [3, 3, 3]
    settings = experiment(LeaveOneOut(), enough=0.7)
    assert enough_of(settings, 10) == 7
    assert draw_in_time(settings, 1, 0, range(10)) != draw_in_time(settings, 2, 0, range(10))


@final
@dataclass(frozen=True)
class Counted(Numbers):
    """The server says how many uploads it used, and how old they were in sum."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        return number(client.id, used=float(broadcast.tensors["number"]) if broadcast.tensors else 0.0)

    def server_update(self, server: Server, uploads: dict[int, Knowledge]) -> Knowledge:
        assert list(uploads) == sorted(uploads)
        assert all(server.round - int(upload.header["round"]) <= 1 for upload in uploads.values())
        return number(len(uploads))


@pytest.mark.slow
def test_a_late_upload_is_used_a_round_later_if_its_client_sent_nothing_newer() -> None:
    dropped = run(Counted(), rounds=4, faults={"straggle": 0.5})
    used = run(Counted(), rounds=4, faults={"straggle": 0.5}, late_rounds=1)
    assert all("late_used" not in row for row in dropped.metrics)
    assert sum(row["late_used"] for row in used.metrics[1:]) > 0
    for round in (1, 2, 3):
        in_time, late = used.metrics[round]["clients_ok"], used.metrics[round]["late_used"]
        assert used.metrics[round + 1]["used"] == in_time + late
        assert dropped.metrics[round + 1]["used"] == in_time


@final
@dataclass(frozen=True)
class Slow(Numbers):
    """Client k takes 900 (k + 1) seconds by the grid's clock."""

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        jump(900.0 * (client.id + 1))
        return number(client.id)

    def server_update(self, server: Server, uploads: dict[int, Knowledge]) -> Knowledge:
        return number(0)


def test_the_timeout_is_for_what_one_client_takes_itself_on_every_grid(
    make_grid: Callable[[], JobGrid], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five clients of 900 to 4500 s: 2700 s is enough for three of them, whoever came before."""
    monkeypatch.setattr(client_call, "clock", client_call.clock)  # put back after the test
    history = simulate(experiment(Slow(), clients=5, rounds=2, timeout=2800.0), make_grid())
    assert [row["clients_ok"] for row in history.metrics] == [0, 3, 3]
    late = [(row["round"], row["client"], row["reason"]) for row in history.clients if row.get("status") == "late"]
    assert late == [(round, client, "no reply within 2800 s") for round in (1, 2) for client in (3, 4)]


@pytest.mark.slow
def test_elsewhere_the_first_replies_are_those_that_came_first_and_a_late_one_is_taken_with_the_next_round() -> None:
    """On a grid that is not ours nothing is drawn: node 30 always answers a push later."""
    settings = experiment(Counted(), clients=3, rounds=3, enough=0.6, late_rounds=1)
    history = simulate(settings, RenumberedGrid({10: {}, 20: {}, 30: {"late": 1}}))  # type: ignore[arg-type]
    assert [(row["clients_ok"], row["clients_late"]) for row in history.metrics[1:]] == [(2, 1)] * 3
    assert [row["late_used"] for row in history.metrics[1:]] == [0, 1, 1]
    assert [row["used"] for row in history.metrics[1:]] == [0, 2, 3]


def test_uploads_that_make_sense_in_their_own_round_only_are_not_kept() -> None:
    with pytest.raises(InputError, match="late_rounds: uploads of Counting make sense in their own round only: set it to 0"):
        Experiment(strategy=Counting(), late_rounds=1)


def test_an_attacker_is_an_attacker_for_the_whole_run() -> None:
    settings = experiment("fedavg", attack={"name": "sign_flip", "share": 0.3})
    assert len(attackers(settings)) == 3
    assert attackers(settings) == attackers(settings.replace(rounds=9))
    assert not attackers(settings.replace(attack={}))


def test_attackers_mislabel_their_training_samples_and_nobody_elses() -> None:
    seen: dict[bool, list[float]] = {False: [], True: []}

    @final
    @dataclass(frozen=True)
    class Watching(Numbers):
        def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
            samples = client.train.samples
            truth = client.federation.source.train_labels[samples.indices]
            seen[client.id in attackers(client.experiment)].append(
                float((samples.labels[samples.indices] == truth).float().mean())
            )
            return number(0)

        def server_update(self, server: Server, uploads: dict[int, Knowledge]) -> Knowledge:
            return number(0)

    run(Watching(), rounds=1, attack={"name": "label_flip", "share": 0.3})
    assert seen == {False: [1.0] * 7, True: [0.0] * 3}


@pytest.mark.slow
def test_a_sign_flip_turns_the_mean_and_passes_the_guard() -> None:
    honest, attacked = (run("fedavg", attack=attack) for attack in ({}, {"name": "sign_flip", "share": 0.4, "scale": 3.0}))
    assert attacked.metrics[-1]["clients_ok"] == 10
    assert attacked.metrics[-1]["accuracy"] < honest.metrics[-1]["accuracy"]


@pytest.mark.parametrize("name", ["unknown", "labelflip"])
def test_an_unknown_attack_is_named(name: str) -> None:
    with pytest.raises(InputError, match=r"attack\.name"):
        Experiment(attack={"name": name, "share": 0.1})


@final
@dataclass(frozen=True)
class Certain(Strategy):
    """Uploads one certain row of probabilities; the server passes the mean on."""

    paper: ClassVar[str] = "none (test)"
    sends: ClassVar[str] = "one row"

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        return Knowledge.of("probabilities", {"row": torch.tensor([[1.0, 0.0]])}, metrics={"loss": 0.0})

    def server_update(self, server: Server, uploads: dict[int, Knowledge]) -> Knowledge:
        row = torch.stack([upload.tensors["row"] for upload in uploads.values()]).mean(0)
        server.report({"heard": float(row[0, 0])})
        return Knowledge.of("probabilities", {"row": row})

    def predictors(self, node: object, broadcast: Knowledge) -> dict[str, object]:
        return {}

    def upload_schema(self, server: Server, client: int) -> dict[str, TensorSpec]:
        return {"row": TensorSpec((1, 2), torch.float32, "probabilities")}


@pytest.mark.parametrize("late_rounds", [0, 1])
def test_attackers_that_collude_answer_by_what_the_honest_clients_of_the_exchange_sent(late_rounds: int) -> None:
    """All honest rows say the first class, so the attackers name the second; who came late in its round counts later."""
    history = run(Certain(), attack={"name": "lma", "share": 0.3}, faults={"straggle": 0.3}, late_rounds=late_rounds)
    settings = experiment(Certain(), attack={"name": "lma", "share": 0.3})
    for round in (1, 2, 3):
        in_time = [row["client"] for row in history.clients if (row["round"], row.get("status")) == (round, "ok")]
        honest = [client for client in in_time if client not in attackers(settings)]
        assert 0 < len(honest) < len(in_time)
        if not late_rounds:
            assert history.metrics[round]["server_heard"] == pytest.approx(len(honest) / len(in_time))
        assert 0 < history.metrics[round]["server_heard"] < 1


@pytest.mark.slow
def test_noise_falls_on_uploaded_probabilities_and_its_epsilon_grows_with_every_release() -> None:
    history = run(Certain(), privacy={"noise_multiplier": 2.0, "delta": 1e-3})
    epsilons = [row["epsilon"] for row in history.metrics[1:]]
    assert epsilons == sorted(epsilons) and epsilons[0] < epsilons[2]
    assert history.metrics[1]["delta"] == 1e-3
    assert history.metrics[1]["clients_ok"] == 10  # back on the simplex: the guard lets it pass
    assert history.metrics[2]["server_heard"] != 1.0
    assert "loss" not in history.metrics[2]
    plain = run(Certain()).metrics[2]
    assert "epsilon" not in plain
    assert (plain["server_heard"], plain["loss"]) == (1.0, 0.0)
