"""FedTGP: prototypes that the server trains apart, what clients say for it, and the nearest of all as the answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from fedkd.strategies.fedtgp import FedTGP, largest_gap, margin_loss
from fedkd.strategies.local import Local
from public_runs import client_of, server_of, tiny
from torch import Tensor

from fedkd import Client, Experiment, InputError, Knowledge, predict, simulate
from fedkd.methods.prototypes import Prototypes

C, D = 10, 8


def says(rows: dict[int, Tensor]) -> Knowledge:
    """The prototypes of some classes, each of two samples."""
    values, counts = torch.zeros(C, D), torch.zeros(C, dtype=torch.int32)
    for label, row in rows.items():
        values[label], counts[label] = row, 2
    return Prototypes(values, counts).to_knowledge(weight=float(counts.sum()))


def apart(scale: float = 5.0) -> dict[int, Tensor]:
    """Eight classes on an axis each."""
    return dict(enumerate(scale * torch.eye(D)))


def broadcast_of(rows: Tensor) -> Knowledge:
    return Knowledge.of("embedding", {"prototypes": rows})


def weights_after(strategy: Any, broadcast: Knowledge, experiment: Experiment) -> dict[str, Tensor]:
    client = client_of(experiment)
    strategy.client_update(client, broadcast)
    return {name: tensor.clone() for name, tensor in client.net(init="own", keep=True).state_dict().items()}


@pytest.mark.recomputed("fedtgp", by="formula")
def test_without_a_margin_it_is_the_softmax_of_negative_distances() -> None:
    rng = torch.Generator().manual_seed(0)
    rows, points, labels = torch.randn(6, D, generator=rng), torch.randn(C, D, generator=rng), torch.tensor([0, 3, 3, 9, 1, 5])
    distances = (rows[:, None] - points).square().sum(2).sqrt()  # (6, C)
    expected = -(-distances).log_softmax(1)[torch.arange(6), labels].mean()
    torch.testing.assert_close(margin_loss(rows, points, labels, margin=0.0), expected)


@pytest.mark.recomputed("fedtgp", by="hand")
def test_a_margin_of_one_is_a_step_of_one_between_the_own_class_and_all_others() -> None:
    points = torch.tensor([[0.0, 3.0], [4.0, 0.0], [0.0, -5.0]])
    loss = margin_loss(torch.zeros(1, 2), points, torch.tensor([0]), margin=1.0)
    e = torch.tensor([-4.0, -4.0, -5.0]).exp()
    assert loss.item() == pytest.approx(-float((e[0] / e.sum()).log()))


def test_two_equal_points_have_a_distance_of_zero_and_a_gradient() -> None:
    """The root of expanded squares gives no number for about a third of such pairs."""
    rows = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    points = rows.clone().requires_grad_()
    loss = margin_loss(rows, points, torch.arange(500), margin=0.0)
    loss.backward()
    assert loss.isfinite()
    assert points.grad is not None and points.grad.isfinite().all()


def test_the_gap_of_two_classes_is_their_distance_and_one_class_has_none() -> None:
    means = torch.tensor([[0.0, 0.0], [3.0, 4.0], [100.0, 0.0]])
    assert largest_gap(means, torch.tensor([1, 1, 0])) == 5.0
    assert largest_gap(means, torch.tensor([0, 1, 0])) == torch.inf


@pytest.mark.recomputed("fedtgp", by="hand")
@pytest.mark.parametrize(("limit", "expected"), [(100.0, 2**0.5 * 5), (3.0, 3.0), (0.0, 0.0)])
def test_the_margin_is_the_largest_gap_of_mean_prototypes_up_to_a_limit(limit: float, expected: float) -> None:
    """One client says 4 on each axis, the other 6: their means lie 5 on each axis, as if all had said so."""
    server = server_of(tiny("fedtgp"))
    FedTGP(margin_limit=limit, server_epochs=1).server_update(server, {0: says(apart(4.0)), 1: says(apart(6.0))})
    assert server.reported["server_margin"] == pytest.approx(expected)


def test_trained_prototypes_come_near_to_what_was_uploaded_and_go_on_from_round_to_round() -> None:
    """Each uploaded prototype's nearest is that of its class in the end, of all C, though two of these nobody has."""
    server, strategy, losses = server_of(tiny("fedtgp")), FedTGP(margin_limit=0.0, server_lr=0.1), []
    for round in (1, 2, 3):
        server.round = round
        answer = strategy.server_update(server, {0: says(apart()), 1: says(apart())})
        losses.append(server.reported["server_contrast"])
    assert losses == sorted(losses, reverse=True) and losses[2] < 0.5 * losses[0]
    points = answer.tensors["prototypes"]
    assert points.shape == (C, D)
    assert torch.cdist(torch.stack([*apart().values()]), points).argmin(1).tolist() == list(range(D))


def test_a_client_says_the_mean_features_of_its_trained_net_in_eval_mode() -> None:
    experiment = tiny("fedtgp", train={"epochs": 2, "batch_size": 8})
    client = client_of(experiment)
    upload = FedTGP().client_update(client, FedTGP().first_broadcast(server_of(experiment)))
    samples = client.train.samples
    features = predict(client.net(init="own", keep=True).eval().features, samples, client.work())
    labels = samples.labels[samples.indices]
    assert upload.tensors["class_ids"].tolist() == sorted(set(labels.tolist()))
    for label, row, count in zip(*(upload.tensors[name] for name in ("class_ids", "prototypes", "counts")), strict=True):
        assert int(count) == int((labels == label).sum())
        torch.testing.assert_close(row, features[labels == label].mean(0), rtol=1e-5, atol=1e-6)


def test_with_a_weight_of_zero_a_client_trains_as_if_alone() -> None:
    experiment, points = tiny("fedtgp"), broadcast_of(torch.randn(C, D))
    alone = weights_after(Local(), Knowledge(), experiment)
    without, taught = (weights_after(FedTGP(prototype_weight=weight), points, experiment) for weight in (0.0, 10.0))
    assert all(torch.equal(without[name], tensor) for name, tensor in alone.items())
    assert not torch.equal(taught["encoder.layers.0.weight"], alone["encoder.layers.0.weight"])
    first = weights_after(FedTGP(), broadcast_of(torch.zeros(0, D)), experiment)
    assert all(torch.equal(first[name], tensor) for name, tensor in alone.items())


def answers(client: Client, points: Tensor) -> dict[str, Tensor]:
    samples = client.test.samples
    predictors = FedTGP().predictors(client, broadcast_of(points))
    return {name: predict(predictor.function, samples, client.work()) for name, predictor in predictors.items()}


@pytest.mark.filterwarnings("ignore:Classes")
def test_the_nearest_of_all_prototypes_answers_those_of_classes_it_never_had_among_them() -> None:
    client = client_of(tiny("fedtgp", data={"partition": "pathological", "num_classes_per_partition": 2}))
    own = set(client.train.samples.label_counts().nonzero().flatten().tolist())
    other = min({*range(C)} - own)
    features = predict(client.net(init="own", keep=True).eval().features, client.test.samples, client.work())
    given = answers(client, features.mean(0) + 100 * torch.arange(C)[:, None].ne(other))
    assert list(given) == ["prototype", "main"]
    assert set(given["prototype"].argmax(1).tolist()) == {other}


def test_before_there_are_prototypes_the_nets_classifier_answers() -> None:
    experiment = tiny("fedtgp")
    first = FedTGP().first_broadcast(server_of(experiment))
    assert list(FedTGP().predictors(client_of(experiment), first)) == ["main"]
    assert FedTGP().predictors(server_of(experiment), first) == {}


@pytest.mark.slow
def test_up_goes_what_a_client_holds_and_down_a_point_for_each_class() -> None:
    """A client of C_k classes: 4 D bytes for each prototype, 4 for its class, 4 for its count; 4 C D come back."""
    experiment = tiny("fedtgp", rounds=2)
    held = [set(s.labels[s.indices].tolist()) for s in (client_of(experiment, k).train.samples for k in (0, 1))]
    rows = simulate(experiment).metrics
    assert rows[1]["bytes_up"] == rows[2]["bytes_up"] == sum(map(len, held)) * (4 * D + 8)
    assert (rows[1]["bytes_down"], rows[2]["bytes_down"]) == (0, 2 * 4 * C * D)
    assert rows[1]["prototype"] == 0 < rows[2]["prototype"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"class_ids": torch.tensor([4, 4], dtype=torch.int32)}, "names a class twice"),
        ({"counts": torch.tensor([4, 0], dtype=torch.int32)}, "has no sample"),
        ({"counts": torch.tensor([9, 9], dtype=torch.int32)}, "its weight is 4"),
    ],
)
def test_an_upload_that_contradicts_itself_is_refused(change: dict[str, Tensor], reason: str) -> None:
    honest, server = says({4: torch.ones(D), 6: torch.zeros(D)}), server_of(tiny("fedtgp"))
    FedTGP().check_upload(server, honest)
    with pytest.raises(ValueError, match=reason):
        FedTGP().check_upload(server, dataclasses.replace(honest, tensors={**honest.tensors, **change}))


@pytest.mark.slow
def test_nets_may_differ_but_not_in_the_width_of_their_features() -> None:
    mixed = {"nets": {"cnn": 0.5, "mlp": 0.5}, "net_options": {"mlp": {"hidden": [16, 8]}, "cnn": {"hidden": 8}}}
    assert simulate(tiny("fedtgp", **mixed)).metrics[1]["clients_ok"] == 2
    uneven = {**mixed, "net_options": {"mlp": {"hidden": [16]}, "cnn": {"hidden": 8}}}
    with pytest.raises(InputError, match="cnn 8, mlp 16: make them equal in net_options"):
        simulate(tiny("fedtgp", **uneven))


@pytest.mark.slow
def test_beats_training_alone() -> None:
    """10 nets, seed 1 (0, 2). Global: 0.726 (0.682, 0.688) against 0.682 (0.661, 0.653) alone; own: 0.924 against 0.907."""
    means = {}
    for name in ("fedtgp", "local"):
        data = {"clients": 10, "partition": "dirichlet", "alpha": 0.5, "min_partition_size": 8}
        train = {"optimizer": "adam", "lr": 0.002, "batch_size": 16, "epochs": 3}
        experiment = Experiment(strategy=name, rounds=15, seed=1, nets="mlp", data=data, train=train, evaluate_every=15)
        row = simulate(experiment).metrics[-1]
        means[name] = [row[key] for key in ("accuracy", "client_accuracy")]
    assert means["fedtgp"][0] > means["local"][0] + 0.02
    assert means["fedtgp"][1] > means["local"][1] + 0.01
