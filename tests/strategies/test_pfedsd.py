"""pFedSD: the net that a client trained the last time is its teacher when it starts from the global one."""

from __future__ import annotations

import math

import pytest
import torch
from fedkd.strategies.pfedsd import PFedSD
from public_runs import client_of, tiny

from fedkd import Client, Experiment, Knowledge, predict, simulate

#: One step on all samples, so that teacher and student can be compared before it.
ONE_STEP = {"epochs": 1, "batch_size": 64, "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0}


def global_net(experiment: Experiment, number: int) -> Knowledge:
    """Weights that are nobody's initial ones."""
    weights = client_of(experiment).net(f"global {number}", init="own").state_dict()
    return Knowledge.of("weights", {name: tensor.clone() for name, tensor in weights.items()})


def probabilities(client: Client, weights: Knowledge) -> list[list[float]]:
    net = client_of(client.experiment).net("any", weights=weights.tensors).eval()
    return predict(net, client.train.samples, client.work()).double().softmax(1).tolist()


def copied(upload: Knowledge) -> Knowledge:
    return upload.copy()


@pytest.mark.recomputed("pfedsd", by="formula")
def test_the_term_is_the_divergence_from_the_own_last_net_and_moves_the_net() -> None:
    """In plain loops, before the first step of the second participation."""
    experiment = tiny("pfedsd", train=ONE_STEP)
    client = client_of(experiment)
    last = copied(PFedSD().client_update(client, global_net(experiment, 0)))
    assert "distillation" not in last.metrics  # there was none to learn from
    received = global_net(experiment, 1)
    student, teacher = probabilities(client, received), probabilities(client, last)
    expected = sum(b * math.log(b / a) for p, q in zip(student, teacher, strict=True) for a, b in zip(p, q, strict=True)) / len(
        student
    )
    upload = copied(PFedSD(weight=3.0).client_update(client, received))
    assert upload.metrics["distillation"] == pytest.approx(3 * expected, rel=1e-4)
    other = client_of(experiment)
    PFedSD().client_update(other, global_net(experiment, 0))
    without = PFedSD(weight=0.0).client_update(other, received)
    assert max(float((upload.tensors[name] - without.tensors[name]).abs().max()) for name in without.tensors) > 1e-3


def test_the_teacher_stays_until_the_training_is_over_and_is_then_what_was_uploaded() -> None:
    experiment = tiny("pfedsd", train={"batch_size": 8})
    client = client_of(experiment)
    for number in range(2):
        upload = PFedSD().client_update(client, global_net(experiment, number))
        last = client.net("last")
        assert not last.training
        assert all(torch.equal(tensor, upload.tensors[name]) for name, tensor in last.state_dict().items())


def test_a_client_is_scored_on_its_own_last_net_and_on_the_global_one_before_it_has_any() -> None:
    experiment = tiny("pfedsd", train={"batch_size": 8, "lr": 0.5})
    client, received = client_of(experiment), global_net(experiment, 0)
    inputs = torch.rand(3, 1, 8, 8)
    before = PFedSD().predictors(client, received)["last"].function(inputs)
    assert torch.equal(before, client.net("any", weights=received.tensors).eval()(inputs))
    upload = copied(PFedSD().client_update(client, received))
    after = PFedSD().predictors(client, received)["last"].function(inputs)
    assert torch.equal(after, client.net("any", weights=upload.tensors).eval()(inputs))


@pytest.mark.slow
def test_without_the_term_it_is_fedavg() -> None:
    strategies = ("fedavg", {"name": "pfedsd", "weight": 0.0}, "pfedsd")
    plain, without, taught = (simulate(tiny(each, rounds=2, train={"batch_size": 8})).metrics[2] for each in strategies)
    assert without["cross_entropy"] == plain["cross_entropy"] != taught["cross_entropy"]
    assert without["accuracy"] == plain["accuracy"]
    assert taught["distillation"] > 0


def test_bytes_are_those_of_the_weights() -> None:
    for row in simulate(tiny("pfedsd", rounds=2)).metrics[1:]:
        assert row["bytes_up"] == row["bytes_down"] == 2 * 4 * (64 * 8 + 8 + 8 * 10 + 10)


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "other", "by"), [(0.1, "fedavg", 0.1), (0.3, "local", 0.015)])
def test_beats_others_on_the_clients_own_samples(alpha: float, other: str, by: float) -> None:
    """Own test accuracy, mean of five looks: 0.931, FedAvg 0.718; at alpha 0.3 0.978, alone 0.952.

    With seeds 1 and 2 0.966 and 0.927, FedAvg 0.853 and 0.922; 0.970 and 0.964, alone 0.926 and 0.941.
    """
    accuracies = {}
    for name in ("pfedsd", other):
        data = {"clients": 10, "partition": "dirichlet", "alpha": alpha, "min_partition_size": 4}
        train = {"lr": 0.05, "batch_size": 16, "epochs": 5}
        experiment = Experiment(
            strategy=name, rounds=20, participation=0.4, nets="mlp", data=data, train=train, evaluate_every=2
        )
        accuracies[name] = sum(row["client_accuracy"] for row in simulate(experiment).metrics[12::2]) / 5
    assert accuracies["pfedsd"] > accuracies[other] + by
