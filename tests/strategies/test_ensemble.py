"""The ensemble of locally trained nets: what the server makes of them, and that clients train as without it."""

from __future__ import annotations

import pytest
import torch
from fedkd.strategies.ensemble import Ensemble
from public_runs import few_samples, server_of, tiny

from fedkd import Knowledge, load, simulate
from fedkd.experiment.algorithm.server import Server

MIXED = {"cnn": 0.5, "mlp": 0.5}


def net_of(server: Server, client: int) -> Knowledge:
    """Some weights of the client's architecture, other ones for each client."""
    net = server.net(f"drawn {client}", architecture=server.architecture_of(client), init="own")
    return Knowledge.of("weights", {name: tensor.clone() for name, tensor in net.state_dict().items()})


@pytest.mark.recomputed("ensemble", by="formula")
def test_the_server_predicts_by_the_mean_probabilities_of_nets_of_any_architecture() -> None:
    server = server_of(tiny("ensemble", nets=MIXED))
    uploads = {client: net_of(server, client) for client in server.clients}
    Ensemble().server_update(server, uploads)
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(5, 10)
    for client, upload in uploads.items():
        net = server.net(f"check {client}", architecture=server.architecture_of(client)).eval()
        load(net, upload.tensors)
        with torch.no_grad():
            expected += net(images).softmax(1) / len(uploads)
    with torch.no_grad():
        found = Ensemble().predictors(server, Knowledge())["ensemble"].function(images)
    torch.testing.assert_close(found, expected)


def test_the_newest_net_of_each_client_counts_and_those_who_sit_out_stay() -> None:
    server, strategy = server_of(tiny("ensemble")), Ensemble()
    first, second = net_of(server, 0), net_of(server, 1)
    assert strategy.predictors(server, Knowledge()) == {}  # nothing has arrived
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    strategy.server_update(server, {0: second, 1: second})
    strategy.server_update(server, {0: first})
    with torch.no_grad():
        after = strategy.predictors(server, Knowledge())["ensemble"].function(images)
    fresh = server_of(tiny("ensemble"))
    strategy.server_update(fresh, {0: first, 1: second})
    with torch.no_grad():
        torch.testing.assert_close(after, strategy.predictors(fresh, Knowledge())["ensemble"].function(images))


@pytest.mark.slow
def test_clients_train_as_they_would_alone_and_upload_their_own_net() -> None:
    """The mlp has 610 weights; the cnn 8 * 10 + 16 * 73 + 64 * 65 + 10 * 65 = 6058. Of two clients each has one."""
    settings = {"nets": MIXED, "rounds": 2}
    together, alone = simulate(tiny("ensemble", **settings)), simulate(tiny("local", **settings))
    for key in ("loss", "client_accuracy", "worst_tenth_accuracy"):
        assert [row.get(key) for row in together.metrics] == [row.get(key) for row in alone.metrics]
    assert [(row["bytes_up"], row["bytes_down"]) for row in together.metrics[1:]] == [(4 * (610 + 6058), 0)] * 2


@pytest.mark.slow
def test_all_nets_together_know_more_than_each_alone() -> None:
    """Seen on digits, 5 clients of 40 samples, two kinds of nets: together 87.7 %, each alone 58.1 % (its error: 2.6 %)."""
    row = simulate(few_samples("ensemble")).metrics[-1]
    alone = simulate(few_samples("local")).metrics[-1]["accuracy"]
    assert row["accuracy"] == row["ensemble_accuracy"] > alone + 0.2
