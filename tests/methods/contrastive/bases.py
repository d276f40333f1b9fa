"""What the tests of bases share: a tiny experiment, a client without an engine, and that client a round later."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedkd import Client, Experiment
from fedkd.experiment.algorithm.functions import Functions
from fedkd.knowledge.memory import Memory
from fedkd.methods.contrastive import Base, Views
from fedkd.nets import Net


def tiny(strategy: Any = "fedsimclr", **changes: Any) -> Experiment:
    """2 clients of 32 digits, batches of 8, a net without batch statistics."""
    data = {"clients": 2, "partition": "iid", "train_limit": 80, **changes.pop("data", {})}
    train = {"batch_size": 8, "lr": 0.05, **changes.pop("train", {})}
    options = {"mlp": {"hidden": [8]}, "cnn": {"channels": [4], "hidden": 8}}
    return Experiment(strategy=strategy, **{"nets": "mlp", "net_options": options, "data": data, "train": train, **changes})


def client_of(experiment: Experiment, id: int = 0, *, round: int = 1, memory: Memory | None = None) -> Client:
    """A client in a round, with what it remembers."""
    client = Client(id, experiment, Functions(), experiment.federation(), memory or Memory(), torch.device("cpu"))
    client.round = round
    return client


def later(client: Client, round: int) -> Client:
    """The same client in another round, with nothing but its memory."""
    client.flush()
    client.release()
    return client_of(client.experiment, client.id, round=round, memory=client.memory)


def online(client: Client, base: Base[Any]) -> Net:
    """The net that the client trains."""
    return client.net(heads=base.heads, keep=base.keeps_net).train()


def weights(net: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of all it holds."""
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def other_weights(client: Client, base: Base[Any], name: str) -> dict[str, Tensor]:
    """Weights of their own for every name, BatchNorm's too."""
    drawn = weights(client.net(name, heads=base.heads, init="own"))
    rng = torch.Generator().manual_seed(len(name))
    return {
        key: tensor + torch.rand(tensor.shape, generator=rng) if tensor.is_floating_point() else tensor + 1
        for key, tensor in drawn.items()
    }


def views_of(client: Client, net: Net) -> Views:
    """Two views of the client's first batch, as the plumbing hands them to a base."""
    batch = next(client.train.batches(epochs=1, batch_size=8, rng=torch.Generator().manual_seed(0)))
    images = torch.cat([batch.view(1), batch.view(2)])
    return Views(images, net.head("projection", net.features(images)), batch.ids)


def shift(net: torch.nn.Module, by: float) -> None:
    """Add to every parameter, as if the net had been trained."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += by
