"""By whose mean and standard deviation a node normalises what it sees: two hospitals, whose one feature differs in scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedkd import Client, Experiment, Memory, Server, Split
from fedkd.data import Source
from fedkd.experiment.algorithm.functions import Functions
from fedkd.results.data import RecordedData

CPU = torch.device("cpu")


def hospitals() -> Source:
    """Hospital 0 has 0 and 2, mean 1 and deviation 1, again and again; hospital 1 has 10 and 30, mean 20 and deviation 10."""
    values = torch.tensor([0.0, 2.0, 10.0, 30.0]).repeat(10)[:, None]
    labels, owners = torch.arange(40) % 2, torch.tensor([0, 0, 1, 1]).repeat(10)
    return Source("hospitals", values, labels, torch.tensor([[4.0], [6.0]]), torch.tensor([0, 1]), ("a", "b"), owners)


def experiment(normalise: str, **data: object) -> Experiment:
    held = {"source": hospitals, "clients": 2, "partition": "natural_id", "client_test": 0.0, "normalise": normalise, **data}
    return Experiment(strategy="fedavg", rounds=1, nets="mlp", net_options={"mlp": {"hidden": [4]}}, data=held)


def values_of(split: Split) -> set[float]:
    inputs = split.batch(next(split.draws(epochs=1, batch_size=100, rng=torch.Generator()))).inputs
    assert isinstance(inputs, Tensor)
    return {round(value, 4) for value in inputs.flatten().tolist()}


def nodes(given: Experiment) -> tuple[Server, Client, Client]:
    federation = given.federation()
    common = given, Functions(), federation, Memory(), CPU
    return Server(*common), Client(0, *common), Client(1, *common)


@pytest.mark.parametrize(
    ("normalise", "first", "second", "test"),
    [
        ("client", {-1, 1}, {-1, 1}, {-1, 1}),
        ("none", {0, 2}, {10, 30}, {4, 6}),
        # of all: mean 10.5, and the mean square 251 gives the deviation 11.8638
        ("global", {-0.885, -0.7165}, {-0.0421, 1.6437}, {-0.5479, -0.3793}),
    ],
)
def test_who_normalises_by_what(normalise: str, first: set[float], second: set[float], test: set[float]) -> None:
    server, zero, one = nodes(experiment(normalise))
    assert (values_of(zero.train), values_of(one.train), values_of(server.test)) == (first, second, test)


def test_a_client_sees_all_by_its_own_moments_and_the_server_by_those_of_what_it_sees() -> None:
    server, zero, one = nodes(experiment("client"))
    test = server.federation.test  # 4 and 6
    assert values_of(zero.split(test)) == {3, 5}
    assert values_of(one.split(test)) == {-1.6, -1.4}
    assert values_of(server.split(test)) == {-1, 1}


def test_a_run_records_by_what() -> None:
    held = RecordedData.of(experiment("client").federation())
    assert (held.normalise, held.mean, held.client_moments) == ("client", (), (((1.0,), (1.0,)), ((20.0,), (10.0,))))
