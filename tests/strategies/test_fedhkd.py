"""FedHKD: what clients tell of each class is averaged over them all, and both terms are of what the server says."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from fedkd.strategies.fedhkd import (
    COUNTS,
    FEATURES,
    PREDICTIONS,
    FedHKD,
    clipped,
    mean_divergence,
    noised,
    packed,
)
from public_runs import client_of, server_of, tiny
from torch import Tensor

from fedkd import Experiment, InputError, Knowledge, predict, simulate

pytestmark = pytest.mark.filterwarnings("ignore::fedkd.base.errors.Notice")
C, D = 10, 8


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def told(knowledge: Knowledge) -> tuple[Tensor, Tensor, Tensor]:
    features, predictions, counts = (knowledge.tensors[name] for name in (FEATURES, PREDICTIONS, COUNTS))
    return features, predictions, counts


def broadcast_of(experiment: Experiment, *rows: Tensor) -> Knowledge:
    return packed(FedHKD().first_broadcast(server_of(experiment)).in_space("weights"), *rows)


@pytest.mark.recomputed("fedhkd", by="formula")
def test_the_server_averages_over_all_clients_by_samples_of_the_class() -> None:
    """The official code keeps what the last client said."""
    server = server_of(tiny("fedhkd"))
    weights = FedHKD().first_broadcast(server).in_space("weights")
    counts = torch.zeros(2, C)
    counts[0, 3], counts[1, 3], counts[1, 5] = 1, 3, 2
    features, said = draws(2, C, D), draws(2, C, C).softmax(2)
    uploads = {k: packed(dataclasses.replace(weights, weight=5.0), features[k], said[k], counts[k]) for k in (0, 1)}
    means, predictions, totals = told(FedHKD().server_update(server, uploads))
    assert totals.tolist() == [0, 0, 0, 4, 0, 2, 0, 0, 0, 0]
    torch.testing.assert_close(means[3], 0.25 * features[0, 3] + 0.75 * features[1, 3])
    torch.testing.assert_close(predictions[3], 0.25 * said[0, 3] + 0.75 * said[1, 3])
    torch.testing.assert_close(means[5], features[1, 5])
    assert not means[0].any() and not predictions[0].any()


@pytest.mark.recomputed("fedhkd", by="formula")
def test_a_client_tells_the_class_means_of_its_trained_net_in_eval_mode() -> None:
    experiment = tiny("fedhkd")
    client, strategy = client_of(experiment), FedHKD(temperature=0.5)
    means, said, counts = told(strategy.client_update(client, strategy.first_broadcast(server_of(experiment))))
    net, samples = client.net(keep=True).eval(), client.train.samples
    labels = samples.labels[samples.indices]
    features, logits = (predict(function, samples, client.work()) for function in (net.features, net))
    assert counts.tolist() == samples.label_counts().tolist()
    for label in range(C):
        mine = labels == label
        expected = features[mine].mean(0) if mine.any() else torch.zeros(D)
        torch.testing.assert_close(means[label], expected, rtol=1e-5, atol=1e-6)
        expected = (logits[mine] / 0.5).softmax(1).mean(0) if mine.any() else torch.zeros(C)
        torch.testing.assert_close(said[label], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.recomputed("fedhkd", by="formula")
def test_the_divergence_is_a_mean_over_classes_and_is_0_at_the_target() -> None:
    """Not over elements, as in the official code, which divides by C once more."""
    logits, known = draws(C, C), torch.arange(C) < 4
    targets = draws(C, C, seed=1).softmax(1)
    expected = torch.nn.functional.kl_div((logits[:4] / 2).log_softmax(1), targets[:4], reduction="batchmean")
    torch.testing.assert_close(mean_divergence(logits, targets, known, temperature=2.0), expected)
    assert mean_divergence(logits, (logits / 2).softmax(1), known, temperature=2.0).item() == pytest.approx(0.0, abs=1e-6)
    assert mean_divergence(logits, targets, known & False, temperature=2.0).item() == 0.0


def test_each_term_moves_the_net() -> None:
    experiment = tiny("fedhkd", train={"lr": 0.05, "epochs": 5})
    counts = torch.ones(C)
    features = []
    for height in (0.0, 4.0):
        client = client_of(experiment)
        upload = FedHKD(feature_weight=5.0).client_update(
            client, broadcast_of(experiment, torch.full((C, D), height), torch.full((C, C), 0.1), counts)
        )
        assert upload.metrics["prototype"] > 0
        features.append(told(upload)[0][told(upload)[2] > 0].mean())
    assert features[1] > features[0] + 0.1
    shares = []
    for label in (0, 1):
        client, said = client_of(experiment), torch.nn.functional.one_hot(torch.full((C,), label), C).float()
        FedHKD(classifier_weight=5.0).client_update(client, broadcast_of(experiment, torch.ones(C, D), said, counts))
        with torch.no_grad():
            shares.append(client.net(keep=True).head("classifier", torch.ones(1, D)).softmax(1)[0, 0])
    assert shares[0] > shares[1] + 0.1


def test_without_weights_it_is_fedavg() -> None:
    mine, theirs = (
        simulate(tiny(strategy, rounds=3)) for strategy in (FedHKD(classifier_weight=0, feature_weight=0), "fedavg")
    )
    for ours, other in zip(mine.metrics, theirs.metrics, strict=True):
        for key in ("accuracy", "client_accuracy", *(("cross_entropy",) if other["round"] else ())):
            assert ours[key] == other[key]


def test_weights_and_what_is_told_travel_both_ways() -> None:
    """|θ| elements and 4 C D + 4 C² + 4 C bytes."""
    experiment = tiny("fedhkd", rounds=2)
    weights = FedHKD().first_broadcast(server_of(experiment)).in_space("weights").raw_bytes
    for row in simulate(experiment).metrics[1:]:
        assert row["bytes_up"] == row["bytes_down"] == 2 * (weights + 4 * C * D + 4 * C * C + 4 * C)


def test_a_client_is_judged_by_the_global_net_and_by_its_own() -> None:
    rows = simulate(tiny("fedhkd", rounds=2)).metrics
    assert all("client_own_accuracy" in row for row in rows)
    assert rows[0]["client_own_accuracy"] == rows[0]["client_accuracy"]


def test_classes_of_few_samples_may_be_left_out() -> None:
    experiment = tiny("fedhkd")
    first = FedHKD().first_broadcast(server_of(experiment))
    counts = client_of(experiment).train.samples.label_counts()
    share = float(counts.float().mean() / counts.sum())  # of those above it some are told of, and others not
    means, said, kept = told(FedHKD(least_share=share).client_update(client_of(experiment), first))
    assert 0 < (kept > 0).sum() < (counts > 0).sum()
    assert torch.equal(kept > 0, counts > share * counts.sum())
    assert not means[kept == 0].any() and not said[kept == 0].any()


def test_features_are_clipped_and_noise_is_as_large_as_one_sample_could_be() -> None:
    rows = clipped(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 2.5)
    torch.testing.assert_close(rows, torch.tensor([[1.5, 2.0], [0.3, 0.4]]))
    assert clipped(rows, 0.0) is rows
    counts, known = torch.tensor([1, 10, 10, 0]), torch.tensor([True, True, False, False])
    noise = noised(torch.zeros(4, 20_000), counts, known, scale=3.0, rng=torch.Generator().manual_seed(0))
    assert noise.std(1).tolist() == pytest.approx([3.0, 0.3, 0.0, 0.0], rel=0.02)
    assert abs(torch.corrcoef(noise[:2])[0, 1]) < 0.03  # not one vector for all classes


def test_noise_keeps_what_is_said_of_classes_that_are_held() -> None:
    experiment = tiny("fedhkd")
    first = FedHKD().first_broadcast(server_of(experiment))
    runs = []
    for strategy in (FedHKD(clip=1.0), FedHKD(clip=1.0, noise=2.0)):
        client = client_of(experiment)
        client.simulated = True
        runs.append(told(strategy.client_update(client, first)))
    held = runs[0][2] > 0
    assert runs[0][0].norm(dim=1).max() <= 1.0
    assert torch.equal(runs[0][1], runs[1][1]) and torch.equal(runs[0][2], runs[1][2])
    assert torch.equal((runs[0][0] != runs[1][0]).any(1), held)


def test_noise_needs_a_clip_and_privacy_refuses_it() -> None:
    with pytest.raises(InputError, match=r"strategy\.noise = 2 is in multiples of strategy\.clip: set that above 0"):
        tiny(FedHKD(noise=2.0))
    with pytest.raises(InputError, match=r"privacy\.noise_multiplier: FedHKD uploads embedding and weights"):
        tiny("fedhkd", privacy={"noise_multiplier": 1.0})


def test_an_upload_that_tells_of_more_samples_than_it_counts_for_is_refused() -> None:
    weights = Knowledge.of("weights", {"w": torch.zeros(1)}, weight=3.0)
    server, rows = server_of(tiny("fedhkd")), (torch.zeros(2, D), torch.zeros(2, 2))
    FedHKD().check_upload(server, packed(weights, *rows, torch.tensor([3, 0])))
    with pytest.raises(ValueError, match="its classes have 4 samples, its weight is 3"):
        FedHKD().check_upload(server, packed(weights, *rows, torch.tensor([3, 1])))


@pytest.mark.slow
def test_on_clients_of_few_classes_it_beats_fedavg() -> None:
    """10 clients, seed 2 (0, 1). Global net, all test digits: 0.939 (0.978, 0.936) against 0.891 (0.969, 0.939) of FedAvg;
    clients' own test digits, by the global net: 0.945 (0.960, 0.934) against 0.926 (0.954, 0.903), by each one's own: 0.983
    (0.964, 0.934).
    """
    rows = {}
    for name in ("fedhkd", "fedavg"):
        data = {"clients": 10, "partition": "dirichlet", "alpha": 0.2, "min_partition_size": 8}
        train = {"lr": 0.05, "batch_size": 16, "epochs": 3}
        experiment = Experiment(strategy=name, rounds=8, seed=2, nets="cnn", data=data, train=train, evaluate_every=8)
        rows[name] = simulate(experiment).metrics[-1]
    assert rows["fedhkd"]["accuracy"] > rows["fedavg"]["accuracy"] + 0.02
    assert rows["fedhkd"]["client_own_accuracy"] > rows["fedavg"]["client_accuracy"] + 0.02
