"""CFD: fresh nets learn the server's labels and say theirs; the server's net learns the mean and goes on."""

from __future__ import annotations

import pytest
import torch
from fedkd.strategies.cfd import CFD
from public_runs import client_of, few_samples, server_of, tiny

from fedkd import Knowledge, simulate
from fedkd.base.errors import InputError
from fedkd.methods.public_distillation import predict_public


def labels(label: int) -> Knowledge:
    """All 30 public samples are of this class."""
    table = torch.nn.functional.one_hot(torch.full((30,), label), 10).float()
    return Knowledge.of("probabilities", {"probabilities": table})


def test_labels_travel_in_so_many_bits_each_only_where_they_changed() -> None:
    assert CFD().uplink(tiny("fedmd")) == CFD().downlink(tiny("fedmd")) == ("bits1", "delta", "deflate")
    both = CFD(bits_up=4, bits_down=32)
    assert (both.uplink(tiny("fedmd")), both.downlink(tiny("fedmd"))) == (
        ("bits4", "delta", "deflate"),
        ("bits32", "delta", "deflate"),
    )
    assert CFD().uplink(tiny("fedmd", uplink=("float16",))) == ("float16",)
    with pytest.raises(InputError, match=r"strategy\.bits_up"):
        tiny({"name": "cfd", "bits_up": 20})


def test_the_servers_net_learns_the_mean_and_goes_on() -> None:
    """Two say class 0, one says class 1: after some rounds its answer is near 2/3 and 1/3."""
    strategy = CFD()
    server = server_of(tiny(strategy, train={"epochs": 20, "lr": 0.1}))
    uploads = {0: labels(0), 1: labels(0), 2: labels(1)}
    distances = []
    for round in range(1, 4):
        server.round = round
        said = strategy.server_update(server, uploads).tensors["probabilities"]
        distances.append(float((said[:, :2] - torch.tensor([2 / 3, 1 / 3])).abs().mean()))
        server.release(kept=False)
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.1


def test_what_the_server_says_moves_the_client() -> None:
    strategy, said = CFD(), []
    for label in (0, 1):
        upload = strategy.client_update(client_of(tiny(strategy)), labels(label))
        assert upload.metrics["distillation"] > 0
        said.append(upload.tensors["probabilities"])
    assert bool((said[0][:, 0] > said[1][:, 0]).all())


def test_clients_start_every_round_at_the_same_weights() -> None:
    """What a client did in another round leaves no trace in the next: the net that it kept is evaluated, no more."""
    strategy = CFD()
    experienced = client_of(tiny(strategy))
    strategy.client_update(experienced, labels(3))
    experienced.flush()
    experienced.release()
    fresh = client_of(tiny(strategy))
    uploads = [strategy.client_update(client, labels(1)).tensors["probabilities"] for client in (experienced, fresh)]
    assert torch.equal(*uploads)


def test_the_public_samples_are_the_same_in_every_round() -> None:
    """Delta coding compares a label with the last one of its sample."""
    strategy = CFD(public_samples=20)
    server = server_of(tiny(strategy))
    net, said = server.net(), []
    for round in (1, 2):
        server.round = round
        said.append(strategy._predict(server, net)["probabilities"])
    assert torch.equal(*said)
    assert torch.equal(said[0], predict_public(net, server.public_subset(20, round=0)).softmax(1))


def test_bytes_are_those_of_the_soft_labels_and_far_fewer_travel() -> None:
    """4 P C bytes each way, a client and round, as the strategy sees them; the server speaks from round 2 on."""
    rows = simulate(tiny(CFD(public_samples=20), rounds=2)).metrics
    assert [row["bytes_up"] for row in rows] == [0, 1600, 1600]
    assert [row["bytes_down"] for row in rows] == [0, 0, 1600]
    assert rows[2]["coded_bytes_up"] < 1600 / 8
    assert rows[2]["distillation"] > 0


@pytest.mark.slow
def test_one_bit_labels_beat_training_alone() -> None:
    """Fresh nets need more epochs. On 359 test digits: the server's net 0.81, each client's alone, in as many epochs, 0.61 on
    average. An upload of 16,000 bytes takes some 140."""
    alone = simulate(few_samples("local", rounds=3, train={"epochs": 10})).metrics[-1]
    row = simulate(few_samples("cfd", rounds=3, train={"epochs": 10})).metrics[-1]
    assert row["accuracy"] > alone["accuracy"] + 0.1
    assert row["coded_bytes_up"] < row["bytes_up"] / 50
