"""Samples of a kind that fedkd does not know: here a few ids beside a few numbers, as a user's own class says."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from fedkd import Experiment, InputError, simulate
from fedkd.base.inputs import Inputs
from fedkd.data import Kind, Source
from fedkd.nets import Encoder


class Visit(Kind):
    """A visit to a doctor: three codes, and two measured values."""

    name = "visit"

    def check(self, where: str, inputs: Inputs) -> None:
        """By name."""
        if not isinstance(inputs, Mapping) or set(inputs) != {"codes", "values"}:
            raise InputError(f"{where}: a visit has codes and values")


def visits() -> Source:
    labels, rng = torch.arange(90) % 2, torch.Generator().manual_seed(0)
    values = torch.randn(90, 2, generator=rng) + 2 * labels[:, None]
    inputs = {"codes": torch.randint(0, 5, (90, 3), generator=rng), "values": values}
    train, test = ({name: held[part] for name, held in inputs.items()} for part in (slice(0, 60), slice(60, 90)))
    return Source("visits", train, labels[:60], test, labels[60:], ("well", "ill"), kind=Visit())


class Reads(Encoder):
    """Vectors of the codes, and the values: it has features, a map, and can be told apart by its shape."""

    def __init__(self, shape: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        assert shape == {"codes": (3,), "values": (2,)}
        self.vectors, self.out_features = nn.Embedding(5, 4), 14

    def forward(self, codes: Tensor, values: Tensor) -> Tensor:
        return torch.cat([self.vectors(codes).flatten(1), values], dim=1)


def reads(shape: Mapping[str, tuple[int, ...]], classes: int) -> Encoder:
    return Reads(shape)


def louder(inputs: Mapping[str, Tensor], rng: torch.Generator) -> Mapping[str, Tensor]:
    return {**inputs, "values": inputs["values"] * (1 + torch.rand(len(inputs["values"]), 1, generator=rng))}


def run(strategy: str, views: str = "") -> dict[str, float]:
    data = {"source": visits, "clients": 2, "partition": "iid", "views": views}
    train = {"lr": 0.1, "batch_size": 16}
    return simulate(Experiment(strategy=strategy, rounds=2, nets=reads, data=data, train=train, evaluate_clients=1)).metrics[-1]


def test_they_are_learned() -> None:
    assert run("fedavg")["accuracy"] > 0.8
    assert run("fedproto")["loss"] > 0


@pytest.mark.slow
def test_views_are_a_function_of_ones_own_or_refused_with_that_cure() -> None:
    with pytest.raises(InputError, match="no random views of samples of kind 'visit': give a function of your own"):
        run("fedsimclr")
    assert run("fedsimclr", views=f"{__name__}:louder")["accuracy"] > 0.6
