"""Honest clients of very unequal sizes count in full; who claims more than it has does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, final

import pytest
from contract import Numbers, number
from grids.renumbered import RenumberedGrid

from fedkd import Client, Experiment, InputError, Knowledge, Server, simulate


def experiment(strategy: Any, *, clients: int = 6, partition: str = "exponential", **changes: Any) -> Experiment:
    data = {"clients": clients, "partition": partition, "train_limit": 0 if partition == "exponential" else 400}
    return Experiment(strategy=strategy, rounds=1, nets="mlp", data=data, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "fedproto", "fd"])
def test_large_clients_of_a_simulation_are_no_liars(strategy: str) -> None:
    settings = experiment(strategy)
    sizes = [len(settings.federation().client_train(client)) for client in range(6)]
    assert max(sizes) > 10 * median(sizes)
    history = simulate(settings)
    assert [row["weight"] for row in history.clients if row["round"] == 1] == sizes


@final
@dataclass(frozen=True)
class Claiming(Numbers):
    """Client 0 claims so many times the samples that it has; the others tell the truth."""

    times: float = 2.0

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        return replace(number(client.id), weight=client.samples * (1 if client.id else self.times))

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        return number(0)


@pytest.mark.parametrize(
    ("times", "ratio", "refused"), [(1.0, 10.0, False), (1.2, 10.0, True), (1e6, 10.0, True), (1e6, 0.0, False)]
)
def test_in_a_simulation_a_claim_is_held_against_what_the_client_has(times: float, ratio: float, refused: bool) -> None:
    row = simulate(experiment(Claiming(times), guard={"weight_ratio": ratio})).metrics[1]
    assert (row["clients_failed"], row["clients_ok"]) == ((1, 5) if refused else (0, 6))
    if refused:
        assert "training samples (guard.weight_ratio = 0 takes any weight)" in row["failures"]["0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("times", "ratio", "refused"), [(5.0, 10.0, False), (20.0, 10.0, True), (20.0, 30.0, False), (1e6, 0.0, False)]
)
def test_elsewhere_it_is_held_against_the_median_as_far_as_the_experiment_says(
    times: float, ratio: float, refused: bool
) -> None:
    nodes: dict[int, dict[str, Any]] = {10 * (client + 1): {"partition-id": client} for client in range(4)}
    settings = experiment(Claiming(times), clients=4, partition="iid", guard={"weight_ratio": ratio})
    row = simulate(settings, RenumberedGrid(nodes)).metrics[1]  # type: ignore[arg-type]
    assert row["clients_failed"] == int(refused)
    if refused:
        assert "over guard.weight_ratio = 10 times the median" in row["failures"]["0"]


def test_the_limits_are_keys_like_any_other() -> None:
    settings = experiment("fedavg", guard={"weight_ratio": 30.0, "step_ratio": 5.0})
    assert "[guard]\nweight_ratio = 30.0\nstep_ratio = 5.0" in settings.to_toml()
    assert Experiment.from_flat(settings.to_flat()).guard == settings.guard
    with pytest.raises(InputError, match=r"guard\.step_ratio: 0\.5 times the median refuses the median itself"):
        Experiment(guard={"step_ratio": 0.5})


@pytest.mark.slow
def test_a_bound_on_the_step_refuses_who_runs_away_and_nobody_else() -> None:
    far = experiment("fedavg", guard={"step_ratio": 100.0}, attack={"name": "sign_flip", "share": 0.2, "scale": 1e4})
    assert simulate(far).metrics[1]["clients_failed"] == 1
    assert "over guard.step_ratio = 100 times the median" in next(iter(simulate(far).metrics[1]["failures"].values()))
    assert simulate(experiment("fedavg", guard={"step_ratio": 100.0})).metrics[1]["clients_ok"] == 6


def test_a_bound_on_the_step_where_no_weights_are_sent_is_told() -> None:
    with pytest.raises(
        InputError, match=r"guard\.step_ratio = 50\.0 does nothing here: clients send .*, and a step is one of weights"
    ):
        simulate(experiment("fd", guard={"step_ratio": 50.0}))
