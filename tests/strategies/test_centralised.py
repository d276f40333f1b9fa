"""Centralised training: what it sees, what it is measured by, and that it bounds the others."""

from __future__ import annotations

from typing import Any

import fedkd.strategies.centralised as centralised_module
import pytest
import torch
from fedkd.strategies.centralised import Centralised
from public_runs import client_of, few_samples, server_of, tiny

from fedkd import Split, predict, simulate
from fedkd.losses import cross_entropy_loss


def test_the_server_trains_on_the_training_samples_of_all_clients_and_on_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = tiny("centralised", data={"public": 20, "client_test": 0.25})
    seen: list[int] = []
    monkeypatch.setattr(
        centralised_module, "train_on_labels", lambda net, data: seen.extend(data.samples.indices.tolist()) or {}
    )
    Centralised().server_update(server_of(experiment), {})
    held = [id for client in (0, 1) for id in client_of(experiment, client).train.samples.indices.tolist()]
    assert sorted(seen) == sorted(held)
    assert len(seen) == len(set(seen)) < 70 - 20  # neither the public samples nor the clients' test samples


def test_nothing_goes_up_and_one_net_goes_down_to_each_client() -> None:
    """The mlp of 64-8-10 has 64 * 8 + 8 + 8 * 10 + 10 = 610 weights of 4 bytes."""
    row = simulate(tiny("centralised")).metrics[1]
    assert (row["bytes_up"], row["bytes_down"]) == (0, 2 * 4 * 610)


def test_the_loss_of_a_round_is_that_of_the_net_as_the_clients_got_it() -> None:
    experiment = tiny("centralised", rounds=2)
    server = server_of(experiment)
    data: Split = server.split(server.federation.train)
    net = server.net("any", architecture="mlp").eval()  # the initial weights, as all start from them
    logits, labels = predict(net, data.samples, data.work), data.samples.labels[data.samples.indices]
    losses = [row["loss"] for row in simulate(experiment).metrics[1:]]
    assert losses[0] == pytest.approx(float(cross_entropy_loss(logits, labels)), rel=1e-5)
    assert losses[1] < losses[0]


def test_clients_of_any_net_can_score_the_servers() -> None:
    history = simulate(tiny("centralised", nets={"cnn": 0.5, "mlp": 0.5}, server_net="mlp"))
    assert history.metrics[1]["clients_ok"] == 2
    assert history.metrics[1]["bytes_down"] == 2 * 4 * 610


def test_labels_that_may_not_be_used_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(centralised_module, "train_on_labels", lambda net, data: seen.append(data) or {})
    experiment = tiny("centralised", data={"labelled": 0.5})
    Centralised().server_update(server_of(experiment), {})
    labels = seen[0].samples.labels[seen[0].samples.indices]
    assert len(labels) and bool((labels >= 0).all())
    assert len(labels) < sum(len(client_of(experiment, client).train) for client in (0, 1))


@pytest.mark.slow
def test_no_client_alone_comes_near_it() -> None:
    """Seen on digits, 5 clients of 40 samples: centralised 88.9 % on the global test set, local 58.1 % (its error: 2.6 %)."""
    central, local = (simulate(few_samples(name)).metrics[-1]["accuracy"] for name in ("centralised", "local"))
    assert central > local + 0.2
    assert torch.tensor(central) <= 1
