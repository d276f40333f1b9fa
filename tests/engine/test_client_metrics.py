"""The names that a client's metrics may have: none that the row of a round gives a meaning of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import pytest
from contract import Numbers, number

from fedkd import Client, Experiment, Knowledge, Server, simulate
from fedkd.engine.client_metrics import check_metrics
from fedkd.results.row_keys import is_owned


@final
@dataclass(frozen=True)
class Reporting(Numbers):
    """Clients report a number under a name of the user's choice; client 0 under none."""

    metric: str = "loss"

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        return number(client.id, **({self.metric: 0.25} if client.id else {}))

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        server.report({"norm": 1.0})
        return number(0)


def run(name: str) -> dict[str, object]:
    data = {"clients": 3, "partition": "iid", "train_limit": 60}
    return simulate(Experiment(strategy=Reporting(metric=name), rounds=1, data=data)).metrics[1]


@pytest.mark.parametrize("name", ["accuracy", "client_accuracy", "round", "reason", "seconds", "bytes_up", "probe_accuracy"])
def test_an_honest_strategy_that_reports_what_the_row_owns_is_told_so(name: str) -> None:
    row = run(name)
    assert (row["clients_ok"], row["clients_failed"], row["round"]) == (1, 2, 1)
    cure = "train_accuracy" if name.endswith("accuracy") else f"my_{name}"
    assert f"gives {name!r} a meaning of its own: report yours as {cure!r}" in row["failures"]["2"]  # type: ignore[index]


@pytest.mark.parametrize("name", ["loss", "train_accuracy", "my_round", "cross_entropy", "edge_bytes"])
def test_other_names_stand_in_the_row_as_means_over_clients(name: str) -> None:
    assert run(name)[name] == 0.25


@pytest.mark.slow
def test_every_name_of_a_row_is_owned_but_for_the_clients_own() -> None:
    experiment = Experiment(strategy="dml", rounds=1, nets="mlp", data={"clients": 2, "partition": "shared", "train_limit": 40})
    row = simulate(experiment).metrics[1] | run("loss")
    reported = {"loss", "cross_entropy", "distillation", "distillation_weight", "ensemble_accuracy"}
    assert {name for name in row if not is_owned(name)} <= reported


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39, [1.0], "0.5", True])
def test_values_that_are_no_finite_numbers_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"metrics: 'loss' is .*, not a finite number"):
        check_metrics({"loss": value})  # type: ignore[dict-item]
