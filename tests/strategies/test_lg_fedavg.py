"""LG-FedAvg: the last layer is averaged and nothing else, and each client answers by its own encoder under the mean."""

from __future__ import annotations

import pytest
import torch
from fedkd.strategies.lg_fedavg import LGFedAvg
from public_runs import client_of, server_of, tiny
from torch import Tensor

from fedkd import Experiment, Knowledge, predict, simulate
from fedkd.methods.shared_classifier import classifier_of

pytestmark = pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")
C, D = 10, 8


def layer(value: float, weight: float = 1.0) -> Knowledge:
    tensors = {"classifier.weight": torch.full((C, D), value), "classifier.bias": torch.full((C,), -value)}
    return Knowledge.of("weights", tensors, weight=weight)


@pytest.mark.recomputed("lg_fedavg", by="hand")
def test_the_mean_counts_samples() -> None:
    answer = LGFedAvg().server_update(server_of(tiny("lg_fedavg")), {0: layer(0.0, 30), 1: layer(4.0, 10)})
    assert torch.equal(answer.tensors["classifier.weight"], torch.full((C, D), 1.0))
    assert torch.equal(answer.tensors["classifier.bias"], torch.full((C,), -1.0))


def test_a_client_keeps_its_encoder_and_takes_up_the_mean() -> None:
    """Two rounds: the encoder goes on from where it was, the last layer from what was sent; both are trained."""
    experiment = tiny("lg_fedavg")
    client, strategy = client_of(experiment), LGFedAvg()

    def state() -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in client.net(keep=True).state_dict().items()}

    start = state()
    upload = strategy.client_update(client, layer(0.5))
    first = state()
    assert all(torch.equal(tensor, upload.tensors[name]) for name, tensor in classifier_of(client.net(keep=True)).items())
    assert not torch.equal(upload.tensors["classifier.weight"], torch.full((C, D), 0.5))
    assert not torch.equal(first["encoder.layers.0.weight"], start["encoder.layers.0.weight"])
    still = client_of(tiny("lg_fedavg", train={"lr": 1e-12}))
    torch.testing.assert_close(strategy.client_update(still, layer(2.0)).tensors["classifier.weight"], torch.full((C, D), 2.0))
    assert torch.equal(still.net(keep=True).state_dict()["encoder.layers.0.weight"], start["encoder.layers.0.weight"])


def test_with_one_client_it_is_that_client_alone() -> None:
    """The mean of one is its own: the same rows as FedAvg's, which is then local training."""
    one = {"rounds": 3, "data": {"clients": 1, "partition": "iid", "train_limit": 60, "public": 0}}
    ours, fedavg = (simulate(tiny(name, **one)).metrics for name in ("lg_fedavg", "fedavg"))
    assert [row["cross_entropy"] for row in ours[1:]] == [row["cross_entropy"] for row in fedavg[1:]]
    assert ours[3]["accuracy"] == pytest.approx(fedavg[3]["accuracy"])


@pytest.mark.recomputed("lg_fedavg", by="formula")
def test_the_answer_is_that_of_the_own_encoder_under_the_mean() -> None:
    client = client_of(tiny("lg_fedavg"))
    samples = client.test.samples
    shared = Knowledge.of("weights", {"classifier.weight": torch.randn(C, D), "classifier.bias": torch.randn(C)})
    predictors = LGFedAvg().predictors(client, shared)
    assert list(predictors) == ["shared_classifier", "main"]
    features = predict(client.net(keep=True).features, samples, client.work())
    expected = features @ shared.tensors["classifier.weight"].T + shared.tensors["classifier.bias"]
    torch.testing.assert_close(predict(predictors["shared_classifier"].function, samples, client.work()), expected)
    assert LGFedAvg().predictors(server_of(tiny("lg_fedavg")), shared) == {}


@pytest.mark.slow
def test_a_last_layer_travels_each_way() -> None:
    for row in simulate(tiny("lg_fedavg", rounds=2)).metrics[1:]:
        assert row["bytes_up"] == row["bytes_down"] == 2 * 4 * (C * D + C)


@pytest.mark.slow
def test_beats_training_alone() -> None:
    """10 nets, seed 1 (0, 2). Global: 0.709 (0.679, 0.691) against 0.682 (0.661, 0.653) alone; own: 0.903 against 0.907."""
    means = {}
    for name in ("lg_fedavg", "local"):
        data = {"clients": 10, "partition": "dirichlet", "alpha": 0.5, "min_partition_size": 8}
        train = {"optimizer": "adam", "lr": 0.002, "batch_size": 16, "epochs": 3}
        experiment = Experiment(strategy=name, rounds=15, seed=1, nets="mlp", data=data, train=train, evaluate_every=15)
        means[name] = simulate(experiment).metrics[-1]["accuracy"]
    assert means["lg_fedavg"] > means["local"] + 0.015
