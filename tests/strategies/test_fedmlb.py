"""FedMLB: maps of a client's net go on through the global net, at every level, and teach the client's lower parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedkd.strategies.fedavg import FedAvg
from fedkd.strategies.fedmlb import FedMLB, mutual_divergence, own_and_hybrids
from public_runs import client_of, server_of, tiny
from torch import nn

from fedkd import Experiment, InputError, Knowledge, simulate
from fedkd.losses import cross_entropy_loss
from fedkd.nets import Net, build_net, cut_net

SIZES = {"mlp": {"hidden": [9, 8, 6]}, "cnn": {"channels": [4, 8], "hidden": 12}, "resnet18": {"width": 4}}
LEVELS = {"mlp": 3, "cnn": 2, "resnet18": 5}


def small(strategy: Any, net: Any = "mlp", **changes: Any) -> Experiment:
    return tiny(strategy, **{"nets": net, "net_options": SIZES, **changes})


def two_nets(name: str) -> tuple[Net, Net]:
    torch.manual_seed(0)
    own, received = (build_net(name, shape=(1, 8, 8), classes=10, options=SIZES[name]) for _ in range(2))
    return own.eval(), received.eval().requires_grad_(False)


def sent(experiment: Experiment) -> Knowledge:
    return FedMLB().first_broadcast(server_of(experiment))


def after(strategy: Any, experiment: Experiment) -> Knowledge:
    broadcast = sent(experiment)
    upload: Knowledge = strategy.client_update(client_of(experiment), broadcast)
    return upload.copy()


@pytest.mark.recomputed("fedmlb", by="formula")
@pytest.mark.parametrize("name", LEVELS)
def test_a_hybrid_is_the_own_trunk_under_the_global_tail_at_each_level(name: str) -> None:
    own, received = two_nets(name)
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    logits, hybrids = own_and_hybrids(own, received, images)
    torch.testing.assert_close(logits, own(images))
    assert len(hybrids) == LEVELS[name]
    for level in range(1, LEVELS[name]):
        expected = cut_net(received, level).tail(cut_net(own, level).map_of(images))
        torch.testing.assert_close(hybrids[level - 1], expected, rtol=1e-4, atol=1e-5)
    last = received.head("classifier", own.features(images))
    torch.testing.assert_close(hybrids[-1], last, rtol=1e-4, atol=1e-5)


def test_the_hybrids_of_equal_nets_are_the_net_and_say_nothing_new() -> None:
    own, _ = two_nets("cnn")
    logits, hybrids = own_and_hybrids(own, own, torch.randn(4, 1, 8, 8))
    for hybrid in hybrids:
        torch.testing.assert_close(hybrid, logits, rtol=1e-4, atol=1e-5)
        assert mutual_divergence(hybrid, logits, temperature=1.0).item() == pytest.approx(0.0, abs=1e-6)


def test_the_gradient_goes_through_the_frozen_parts_into_the_own_ones_and_on_both_sides() -> None:
    """At the deepest level the hybrid has all of the own encoder: it is taught by the global classifier, which stays."""
    own, received = two_nets("mlp")
    images, labels = torch.randn(6, 1, 8, 8), torch.arange(6)
    _, hybrids = own_and_hybrids(own, received, images)
    cross_entropy_loss(hybrids[0], labels).backward()
    first, second = (layer.weight.grad for layer in own.encoder.layers[:2])  # type: ignore[union-attr, index]
    assert first is not None and first.any() and second is not None and not second.any()  # level 1: the first part only
    assert all(parameter.grad is None for parameter in received.parameters())
    taught, student = (torch.randn(3, 4).requires_grad_() for _ in range(2))
    mutual_divergence(taught, student, temperature=2.0).backward()
    assert taught.grad is not None and student.grad is not None and taught.grad.any() and student.grad.any()


def test_with_both_weights_at_zero_it_is_fedavg_bit_for_bit() -> None:
    for net in ("mlp", "cnn"):
        experiment = small("fedmlb", net)
        ours = after(FedMLB(hybrid_weight=0.0, distillation_weight=0.0), experiment).tensors
        theirs = after(FedAvg(), experiment).tensors
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("weight", ["hybrid_weight", "distillation_weight"])
def test_each_term_moves_the_net(weight: str) -> None:
    """In the first step of all, equal nets, there is nothing to distil: it takes a second one."""
    experiment, none = small("fedmlb", train={"batch_size": 4}), {"hybrid_weight": 0.0, "distillation_weight": 0.0}
    without, moved = after(FedMLB(**none), experiment), after(FedMLB(**{**none, weight: 1.0}), experiment)
    name = "encoder.layers.0.weight"
    assert not torch.equal(without.tensors[name], moved.tensors[name])
    part = "hybrid_cross_entropy" if weight == "hybrid_weight" else "distillation"
    assert moved.metrics[part] > 0 == without.metrics[part]


@pytest.mark.slow
def test_bytes_are_those_of_fedavg() -> None:
    ours, theirs = (simulate(small(name, rounds=2)).metrics[2] for name in ("fedmlb", "fedavg"))
    assert (ours["bytes_up"], ours["bytes_down"]) == (theirs["bytes_up"], theirs["bytes_down"])


def logits_only(shape: tuple[int, ...], classes: int) -> nn.Module:
    flat = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(flat, classes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nets": logits_only}, "gives logits only: subclass fedkd.nets.Encoder and override in_parts to cut it"),
        ({"nets": "mlp", "net_options": {"mlp": {"hidden": [8]}}}, "give hidden two widths"),
        ({"nets": {"cnn": 0.5, "mlp": 0.5}}, "FedMLB needs the same net at all clients"),
    ],
)
def test_nets_that_cannot_be_cut_or_differ_are_refused_in_a_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        simulate(small("fedmlb", **changes))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_beats_fedavg_where_clients_know_few_classes() -> None:
    """Global test accuracy with the authors' optimiser, five looks with each of seeds 0-2: 0.763, FedAvg 0.726."""
    data = {"clients": 10, "partition": "dirichlet", "alpha": 0.1, "min_partition_size": 8}
    train = {"epochs": 5, "batch_size": 16, "lr": 0.1, "momentum": 0.0, "clip": 10.0}
    how: dict[str, Any] = {"rounds": 20, "participation": 0.4, "evaluate_every": 4, "nets": "cnn", "data": data, "train": train}

    def looks(name: str) -> list[float]:
        runs = [simulate(Experiment(strategy=name, seed=seed, **how)).metrics for seed in range(3)]
        return [row["accuracy"] for rows in runs for row in rows[4::4]]

    ours, averaged = looks("fedmlb"), looks("fedavg")
    assert len(ours) == 15
    assert sum(ours) > sum(averaged) + 15 * 0.02
