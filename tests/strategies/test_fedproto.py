"""FedProto: prototypes by class, up and down, two ways to weigh their owners, and the nearest one as the answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from fedkd.strategies.fedproto import FedProto
from public_runs import client_of, server_of, tiny

from fedkd import Experiment, InputError, Knowledge, predict, simulate
from fedkd.methods.prototypes import Prototypes

C, D = 10, 8


def says(rows: dict[int, tuple[float, int]]) -> Knowledge:
    """Of class c, ``rows[c]`` = (every element of the prototype, number of samples)."""
    values, counts = torch.zeros(C, D), torch.zeros(C, dtype=torch.int32)
    for label, (value, count) in rows.items():
        values[label], counts[label] = value, count
    return Prototypes(values, counts).to_knowledge(weight=float(counts.sum()))


@pytest.mark.recomputed("fedproto", by="hand")
@pytest.mark.parametrize(("weighting", "expected"), [("counts", 3.0), ("uniform", 2.0)])
def test_owners_of_a_class_count_by_their_samples_or_all_the_same(weighting: Any, expected: float) -> None:
    """Class 4: 0 of 10 samples and 4 of 30 samples; class 6: its only owner's; the other classes are left out."""
    strategy = FedProto(weighting=weighting)
    uploads = {0: says({4: (0.0, 10), 6: (7.0, 1)}), 1: says({4: (4.0, 30)})}
    answer = strategy.server_update(server_of(tiny("fedproto")), uploads)
    assert answer.tensors["class_ids"].tolist() == [4, 6]
    assert answer.tensors["prototypes"][:, 0].tolist() == [expected, 7.0]
    assert answer.tensors["counts"].tolist() == [2, 1]


@pytest.mark.recomputed("fedproto", by="formula")
def test_a_client_says_the_mean_features_of_its_classes_each_sample_once_whatever_the_epochs() -> None:
    """With a learning rate so small, the steps of the last epoch see the weights at its end."""
    experiment = tiny("fedproto", train={"epochs": 2, "batch_size": 8, "lr": 1e-9})
    client = client_of(experiment)
    upload = FedProto().client_update(client, FedProto().first_broadcast(server_of(experiment)))
    samples = client.train.samples
    features = predict(client.net().eval().features, samples, client.work())
    labels = samples.labels[samples.indices]
    assert upload.tensors["class_ids"].tolist() == sorted(set(labels.tolist()))
    for label, row, count in zip(*(upload.tensors[name] for name in ("class_ids", "prototypes", "counts")), strict=True):
        assert int(count) == int((labels == label).sum())
        torch.testing.assert_close(row, features[labels == label].mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_distance_to_the_prototypes_is_taught_and_moves_the_nets() -> None:
    taught, plain = (
        simulate(tiny({"name": "fedproto", "prototype_weight": weight}, rounds=3)).metrics for weight in (1.0, 0.0)
    )
    assert taught[1]["prototype"] == 0 < taught[2]["prototype"]
    assert taught[1]["cross_entropy"] == plain[1]["cross_entropy"]
    assert taught[3]["cross_entropy"] != plain[3]["cross_entropy"]


def test_the_nearest_prototype_answers_and_never_an_unknown_class() -> None:
    client = client_of(tiny("fedproto"))
    samples = client.test.samples
    features = predict(client.net(init="own", keep=True).eval().features, samples, client.work())
    far, near = features[0] + 5.0, features[0]
    values = torch.stack([near] * C)
    values[2], counts = far, torch.zeros(C, dtype=torch.int32)
    counts[[2, 9]] = 1
    predictors = FedProto().predictors(client, Prototypes(values, counts).to_knowledge())
    assert list(predictors) == ["prototype", "main", "own_classes"]
    scores = predict(predictors["prototype"].function, samples, client.work())
    assert int(scores[0].argmax()) == 9
    assert scores.isfinite().sum(1).tolist() == [2] * len(samples)


@pytest.mark.filterwarnings("ignore:Classes")
def test_among_its_own_classes_a_client_never_names_another() -> None:
    """A prototype that every feature is nearest to, of a class that the client has no sample of."""
    client = client_of(tiny("fedproto", data={"partition": "pathological", "num_classes_per_partition": 2}))
    own = set(client.train.samples.label_counts().nonzero().flatten().tolist())
    other = min({*range(C)} - own)
    samples = client.test.samples
    features = predict(client.net(init="own", keep=True).eval().features, samples, client.work())
    values = features.mean(0) + 100 * torch.arange(C)[:, None].ne(other)
    predictors = FedProto().predictors(client, Prototypes(values, torch.ones(C, dtype=torch.int32)).to_knowledge())
    everywhere, among_own = (
        predict(predictors[name].function, samples, client.work()) for name in ("prototype", "own_classes")
    )
    assert set(everywhere.argmax(1).tolist()) == {other}
    assert set(among_own.argmax(1).tolist()) <= own
    assert among_own.isfinite().sum(1).tolist() == [len(own)] * len(samples)


@pytest.mark.slow
def test_both_ways_to_answer_are_in_the_row() -> None:
    row = simulate(tiny("fedproto", rounds=2)).metrics[2]
    assert row["client_own_classes_accuracy"] >= 0 and row["client_main_accuracy"] >= 0


def test_before_there_are_prototypes_the_nets_classifier_answers() -> None:
    experiment = tiny("fedproto")
    client = client_of(experiment)
    assert list(FedProto().predictors(client, FedProto().first_broadcast(server_of(experiment)))) == ["main"]
    assert FedProto().predictors(server_of(experiment), Knowledge()) == {}


@pytest.mark.slow
def test_a_message_is_as_long_as_the_classes_it_knows() -> None:
    """A client of C_k classes: 4 D bytes for each prototype, 4 for its class, 4 for its count; so too what comes back."""
    experiment = tiny("fedproto", rounds=2)
    held = [set(s.labels[s.indices].tolist()) for s in (client_of(experiment, k).train.samples for k in (0, 1))]
    rows = simulate(experiment).metrics
    assert rows[1]["bytes_up"] == sum(map(len, held)) * (4 * D + 8)
    assert (rows[1]["bytes_down"], rows[2]["bytes_down"]) == (0, 2 * len(held[0] | held[1]) * (4 * D + 8))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"class_ids": torch.tensor([4, 4], dtype=torch.int32)}, "names a class twice"),
        ({"counts": torch.tensor([11, 0], dtype=torch.int32)}, "has no sample"),
        ({"counts": torch.tensor([10, 2_000_000_000], dtype=torch.int32)}, "its weight is 11"),
    ],
)
def test_an_upload_that_contradicts_itself_is_refused(change: dict[str, torch.Tensor], reason: str) -> None:
    honest = says({4: (1.0, 10), 6: (2.0, 1)})
    server = server_of(tiny("fedproto"))
    FedProto().check_upload(server, honest)
    with pytest.raises(ValueError, match=reason):
        FedProto().check_upload(server, dataclasses.replace(honest, tensors={**honest.tensors, **change}))


@pytest.mark.slow
def test_nets_may_differ_but_not_in_the_width_of_their_features() -> None:
    mixed = {"nets": {"cnn": 0.5, "mlp": 0.5}, "net_options": {"mlp": {"hidden": [16, 8]}, "cnn": {"hidden": 8}}}
    assert simulate(tiny("fedproto", **mixed)).metrics[1]["clients_ok"] == 2
    uneven = {**mixed, "net_options": {"mlp": {"hidden": [16]}, "cnn": {"hidden": 8}}}
    with pytest.raises(InputError, match="cnn 8, mlp 16: make them equal in net_options"):
        simulate(tiny("fedproto", **uneven))


@pytest.mark.slow
def test_beats_training_alone() -> None:
    """10 nets, seed 1 (0, 2). Global: 0.718 (0.669, 0.682) against 0.690 (0.668, 0.656) alone; own: 0.920 against 0.899."""
    means = {}
    for name in ("fedproto", "local"):
        data = {"clients": 10, "partition": "dirichlet", "alpha": 0.5, "min_partition_size": 8}
        train = {"optimizer": "adam", "lr": 0.002, "batch_size": 16, "epochs": 3}
        experiment = Experiment(strategy=name, rounds=15, seed=1, nets="mlp", data=data, train=train, evaluate_every=15)
        row = simulate(experiment).metrics[-1]
        means[name] = [row[key] for key in ("accuracy", "client_accuracy")]
    assert means["fedproto"][0] > means["local"][0] + 0.01
    assert means["fedproto"][1] > means["local"][1] + 0.01
