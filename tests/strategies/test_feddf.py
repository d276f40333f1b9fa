"""FedDF: who teaches whom, from where students start, when they stop, and what is left without distillation."""

from __future__ import annotations

import dataclasses
from typing import Any

import fedkd.strategies.feddf as feddf_module
import pytest
import torch
from fedkd.strategies.feddf import FedDF, Patience, accuracy, distil_to_best, kept
from public_runs import client_of, server_of, tiny
from torch import Tensor

from fedkd import Experiment, Knowledge, Server, load, simulate
from fedkd.losses import kd_loss
from fedkd.methods.architecture_groups import group_net
from fedkd.methods.public_distillation import predict_public

MIXED = {"cnn": 0.5, "mlp": 0.5}
DATA = {"clients": 2, "train_limit": 110, "public": 30, "validation": 40}


def experiment(strategy: Any = "feddf", **changes: Any) -> Experiment:
    return tiny(strategy, **{"data": DATA, **changes})


def drawn(server: Server, client: int, scale: float = 1.0) -> Knowledge:
    """Some weights of the client's architecture, other ones for each client."""
    net = server.net(f"drawn {client}", architecture=server.architecture_of(client), init="own")
    return Knowledge.of("weights", {name: scale * tensor.clone() for name, tensor in net.state_dict().items()})


def logits_of(server: Server, client: int, upload: Knowledge) -> Tensor:
    net = server.net(f"check {client}", architecture=server.architecture_of(client))
    load(net, upload.tensors)
    return predict_public(net, server.public)


def group_with(server: Server, weights: Knowledge) -> Any:
    net = server.net("with these weights")
    load(net, weights.tensors)
    return net


def taught(strategy: FedDF, server: Server, uploads: dict[int, Knowledge], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """For each architecture what its student started as and what it was taught, without teaching it."""
    seen: dict[str, Any] = {}

    def look(net: Any, subset: Any, targets: Tensor, **how: Any) -> None:
        start = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        seen[net.architecture] = {"start": start, "targets": targets, "ids": subset.samples.indices, **how}

    monkeypatch.setattr(feddf_module, "distil_to_best", look)
    strategy.server_update(server, uploads)
    return seen


@pytest.mark.recomputed("feddf", by="formula")
def test_every_architecture_is_taught_the_mean_logits_of_all_and_starts_at_the_mean_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = server_of(experiment(nets=MIXED, data={**DATA, "clients": 4, "train_limit": 150}))
    uploads = {client: drawn(server, client) for client in server.clients}
    seen = taught(FedDF(), server, uploads, monkeypatch)
    mean = sum(logits_of(server, client, upload) for client, upload in uploads.items()) / 4
    assert seen.keys() == {"cnn", "mlp"}
    for architecture, given in seen.items():
        torch.testing.assert_close(given["targets"], mean)
        assert given["ids"].tolist() == server.public.samples.indices.tolist()
        first, second = (uploads[c].tensors for c in server.clients if server.architecture_of(c) == architecture)
        for name, tensor in given["start"].items():
            torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)


def test_an_architecture_that_nobody_returned_goes_on_as_it_was_and_is_taught_too(monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_of(experiment(nets=MIXED))
    before = {name: tensor.clone() for name, tensor in group_net(server, "cnn").state_dict().items()}
    only_mlp = {client: drawn(server, client) for client in server.clients if server.architecture_of(client) == "mlp"}
    seen = taught(FedDF(), server, only_mlp, monkeypatch)
    assert all(torch.equal(seen["cnn"]["start"][name], tensor) for name, tensor in before.items())
    assert torch.equal(seen["cnn"]["targets"], seen["mlp"]["targets"])


def test_a_net_that_gives_no_finite_logits_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finite weights pass the guard, but 1e6 times 1e6 and so on do not stay finite through many layers."""
    server = server_of(experiment(nets="mlp", net_options={"mlp": {"hidden": [8] * 8}}))
    good, bad = drawn(server, 0), drawn(server, 1, scale=1e6)
    assert not logits_of(server, 1, bad).isfinite().all()
    seen = taught(FedDF(), server, {0: good, 1: bad}, monkeypatch)
    torch.testing.assert_close(seen["mlp"]["targets"], logits_of(server, 0, good))
    assert all(torch.equal(seen["mlp"]["start"][name], tensor) for name, tensor in good.tensors.items())
    assert FedDF().server_update(server, {1: bad}) == {}  # nobody is left: nobody hears anything new


@pytest.mark.slow
def test_the_worst_are_dropped_if_asked_for_unless_all_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance is 10 %; the second net names class 9 for every sample, which is right for 1 of 40."""
    server, strategy = server_of(experiment()), FedDF(drop_worst=True)
    client = client_of(experiment(train={"epochs": 40, "lr": 0.2, "batch_size": 8}))
    able = strategy.client_update(client, strategy.first_broadcast(server)[0])
    unable = drawn(server, 1, scale=0.0)
    unable.tensors["heads.classifier.bias"][9] = 1.0
    assert 40 * accuracy(group_with(server, able), server.validation) > 5  # 1.2 times chance is 4.8 of 40
    assert 40 * accuracy(group_with(server, unable), server.validation) == 1
    seen = taught(strategy, server, {0: able, 1: unable}, monkeypatch)["mlp"]
    torch.testing.assert_close(seen["targets"], logits_of(server, 0, able))
    named = torch.nn.functional.one_hot(torch.full((30,), 9), 10).float()
    torch.testing.assert_close(taught(strategy, server, {1: unable}, monkeypatch)["mlp"]["targets"], named)
    both = taught(FedDF(), server, {0: able, 1: unable}, monkeypatch)["mlp"]
    torch.testing.assert_close(both["targets"], (logits_of(server, 0, able) + named) / 2)


def test_the_nets_that_are_kept_by_hand() -> None:
    """Below 1.2 times chance neither in the mean nor a teacher; outliers, where nobody is that bad, no teachers only."""
    assert kept({3: 0.12, 4: 0.119, 9: 0.5}, 10) == ([3, 9], [3, 9])
    assert kept({3: 0.1, 4: 0.05}, 10) == ([3, 4], [3, 4])  # all of them
    assert kept({7: 0.3}, 10) == ([7], [7])
    # All but the best: 0.5, 0.5, 0.5, 0.5, 0.3; mean 0.46, deviation 0.08, so least 0.34.
    assert kept(dict(enumerate((0.5, 0.5, 0.9, 0.3, 0.5, 0.5))), 10) == ([0, 1, 2, 3, 4, 5], [0, 1, 2, 4, 5])
    assert kept(dict(enumerate((0.5, 0.5, 0.9, 0.36, 0.5, 0.5))), 10)[1] == [0, 1, 2, 4, 5]  # mean 0.472, least 0.388
    assert kept(dict.fromkeys(range(7), 0.7), 10) == ([*range(7)], [*range(7)])
    assert kept({0: 0.5, 1: 0.2}, 10) == ([0, 1], [0, 1])  # of two the worse has no others to be far below


def test_an_outlier_is_averaged_and_does_not_teach(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {**DATA, "clients": 6, "train_limit": 150}
    server = server_of(experiment(data=data))
    uploads = {client: drawn(server, client) for client in server.clients}
    shares = dict(zip(uploads, (0.5, 0.5, 0.9, 0.3, 0.5, 0.5), strict=True))
    asked = iter(shares.values())
    monkeypatch.setattr(feddf_module, "accuracy", lambda net, data: next(asked))
    seen = taught(FedDF(drop_worst=True), server, uploads, monkeypatch)["mlp"]
    teachers = [logits_of(server, client, upload) for client, upload in uploads.items() if client != 3]
    torch.testing.assert_close(seen["targets"], torch.stack(teachers).mean(0))
    for name, tensor in seen["start"].items():
        torch.testing.assert_close(tensor, torch.stack([upload.tensors[name] for upload in uploads.values()]).mean(0))


@pytest.mark.slow
def test_without_steps_it_is_fedavg_of_equal_clients_and_with_them_it_is_not() -> None:
    settings = {"rounds": 2, "data": {**DATA, "partition": "iid"}, "train": {"lr": 0.2, "batch_size": 8, "epochs": 20}}
    none, some, averaged = (simulate(experiment(s, **settings)).metrics for s in (FedDF(steps=0), FedDF(), "fedavg"))
    assert [(row["accuracy"], row.get("loss")) for row in none] == [(row["accuracy"], row.get("loss")) for row in averaged]
    assert some[2]["loss"] != none[2]["loss"]


@pytest.mark.slow
def test_weights_travel_both_ways_by_architecture() -> None:
    """One client has the mlp of 610 weights, one the cnn of 6058."""
    history = simulate(experiment(nets=MIXED, rounds=2))
    for row in history.metrics[1:]:
        assert (row["bytes_up"], row["bytes_down"]) == (4 * (610 + 6058),) * 2
    assert history.metrics[2].keys() >= {"server_accuracy", "mlp_accuracy"}  # the server's student, and the other


def student(**changes: Any) -> tuple[Any, Any, Tensor, dict[str, Any]]:
    """A net, the public samples with their true classes as logits, and how to distil: 20 steps, a look every 5."""
    server = server_of(experiment(**changes))
    public = server.public
    truth = server.federation.source.train_labels[public.samples.indices]
    how = {"loss": kd_loss, "validation": server.validation, "until": Patience(20, 5, 100), "lr": 0.01, "batch_size": 10}
    return server.net("student"), public, 10 * torch.nn.functional.one_hot(truth, 10).float(), how


@pytest.mark.slow
def test_a_student_learns_what_it_is_taught_and_ends_at_its_best() -> None:
    net, public, targets, how = student()
    before = accuracy(net, how["validation"])
    found = distil_to_best(net, public, targets, **how | {"until": Patience(300, 5, 300)})
    assert found == accuracy(net, how["validation"]) > before + 0.2


@pytest.mark.slow
def test_a_student_that_never_does_better_stays_as_it_was() -> None:
    net, public, targets, how = student()
    distil_to_best(net, public, targets, **how | {"until": Patience(300, 5, 300)})
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    distil_to_best(net, public, targets.roll(1, dims=1), **how | {"lr": 0.1})  # every class is called by another's name
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


def test_training_ends_after_so_many_steps_without_a_better_one(monkeypatch: pytest.MonkeyPatch) -> None:
    net, public, targets, how = student()
    steps: list[int] = []
    rates: list[float] = []
    fit = feddf_module.fit

    def counted(net: Any, data: Any, loss: Any, **rest: Any) -> dict[str, float]:
        steps.append(len(rest["draws"]))
        rates.append(rest["optimizer"].param_groups[0]["lr"])
        return fit(net, data, loss, **rest)

    monkeypatch.setattr(feddf_module, "fit", counted)
    monkeypatch.setattr(feddf_module, "accuracy", lambda net, data: 0.5)  # never better
    distil_to_best(net, public, targets, **how | {"until": Patience(100, 4, 10)})
    assert steps == [4, 4, 4]  # 12 is the first look at which 10 steps brought nothing
    steps.clear(), rates.clear()
    distil_to_best(net, public, targets, **how | {"until": Patience(10, 4, 100)})
    assert steps == [4, 4, 2]
    assert rates == pytest.approx([0.01, 0.01 * 0.6545, 0.01 * 0.0955], rel=1e-3)  # (1 + cos(pi t / 10)) / 2 at 0, 4, 8


def test_each_public_sample_comes_once_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 samples in batches of 8: 8, 8, 8 and 6, whatever the steps between two looks."""
    net, public, targets, how = student()
    seen: list[list[int]] = []

    def loss(logits: Tensor, rows: Tensor) -> Tensor:
        return kd_loss(logits, rows)

    def counted(net: Any, data: Any, against: Any, **rest: Any) -> dict[str, float]:
        seen.extend(data.batch(draw).ids.tolist() for draw in rest["draws"])
        return {}

    monkeypatch.setattr(feddf_module, "fit", counted)
    distil_to_best(net, public, targets, **how | {"loss": loss, "until": Patience(8, 3, 100), "batch_size": 8})
    assert [len(ids) for ids in seen] == [8, 8, 8, 6] * 2
    for first in (0, 4):
        assert sorted(id for ids in seen[first : first + 4] for id in ids) == sorted(public.samples.indices.tolist())


def test_a_student_that_diverges_is_put_back() -> None:
    net, public, targets, how = student()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    distil_to_best(net, public, 1e30 * targets, **how | {"lr": 1e30})
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.slow
def test_students_of_two_architectures_know_more_than_clients_alone() -> None:
    """Seen on digits, 8 clients of about 30 samples, two kinds of nets, 6 rounds: the students 86.1 % on the
    global test set, nets trained alone 47.1 % (its error: 2.6 %).
    """
    data = {"clients": 8, "alpha": 1.0, "min_partition_size": 10, "public": 500, "validation": 100, "train_limit": 840}
    settings = {"rounds": 6, "nets": MIXED, "data": data, "train": {"lr": 0.05, "batch_size": 16, "epochs": 5}}
    together, alone = (simulate(Experiment(strategy=name, **settings)).metrics[-1] for name in ("feddf", "local"))
    assert together["accuracy"] > alone["accuracy"] + 0.15
    assert together["mlp_accuracy"] > alone["accuracy"] + 0.15


@pytest.mark.slow
def test_after_long_local_training_the_distilled_net_is_better_than_the_mean_it_started_from() -> None:
    """Seen on digits, 8 clients with uneven labels, 20 local epochs, one round: FedDF 64.9 %, FedAvg 20.9 %."""
    data = {"clients": 8, "alpha": 0.3, "min_partition_size": 10, "public": 500, "validation": 100, "train_limit": 840}
    settings = {"rounds": 1, "nets": "cnn", "data": data, "train": {"lr": 0.1, "batch_size": 16, "epochs": 20}}
    distilled, mean = (simulate(Experiment(strategy=name, **settings)).metrics[-1]["accuracy"] for name in ("feddf", "fedavg"))
    assert distilled > mean + 0.2


def test_uploads_in_any_order_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_of(experiment())
    uploads = {client: dataclasses.replace(drawn(server, client), weight=1.0 + client) for client in server.clients}
    one, other = (taught(FedDF(), server, given, monkeypatch) for given in (uploads, dict(reversed(uploads.items()))))
    assert torch.equal(one["mlp"]["targets"], other["mlp"]["targets"])
    assert all(torch.equal(one["mlp"]["start"][name], tensor) for name, tensor in other["mlp"]["start"].items())
