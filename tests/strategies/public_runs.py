"""What the tests of methods over public samples share: an experiment where they help, and nodes without an engine."""

from __future__ import annotations

from typing import Any

import torch

from fedkd import Client, Experiment, Server, simulate
from fedkd.experiment.algorithm.functions import Functions
from fedkd.knowledge.memory import Memory


def few_samples(strategy: Any, **changes: Any) -> Experiment:
    """5 clients of 33 to 51 digits (seed 0), labels unevenly dealt, 400 public digits without labels, two kinds of nets.

    Evaluated at the end alone, which takes a third of the time.
    """
    data = {"clients": 5, "partition": "dirichlet", "alpha": 1.0, "self_balancing": True, "public": 400, "train_limit": 650}
    train = {"epochs": 3, "batch_size": 16, "lr": 0.05, **changes.pop("train", {})}
    nets = {"cnn": 0.5, "mlp": 0.5}
    settings = {"rounds": 10, "nets": nets, "data": data, "train": train, **changes}
    return Experiment(strategy=strategy, **{"evaluate_every": settings["rounds"], **settings})


def tiny(strategy: Any, **changes: Any) -> Experiment:
    """2 clients, 30 public digits, a net without batch statistics."""
    data = {"clients": 2, "partition": "iid", "train_limit": 70, "public": 30, **changes.pop("data", {})}
    options = {"mlp": {"hidden": [8]}}
    return Experiment(strategy=strategy, **{"rounds": 1, "nets": "mlp", "net_options": options, "data": data, **changes})


def client_of(experiment: Experiment, id: int = 0) -> Client:
    """A client in its first exchange of round 1."""
    client = Client(id, experiment, Functions(), experiment.federation(), Memory(), torch.device("cpu"))
    client.round = 1
    return client


def server_of(experiment: Experiment, exchange: int = 0) -> Server:
    """The server in round 1."""
    server = Server(experiment, Functions(), experiment.federation(), Memory(), torch.device("cpu"))
    server.round, server.exchange = 1, exchange
    return server


def one_round(strategy: Any, **changes: Any) -> float:
    """The accuracy after one long round of 5 clients of digits, labels unevenly dealt, nets with BatchNorm by default."""
    data = {"clients": 5, "partition": "dirichlet", "alpha": 0.5, "self_balancing": True, "min_partition_size": 20}
    train = {"epochs": 30, "batch_size": 16, "lr": 0.05}
    settings = {"nets": "cnn", "net_options": {"cnn": {"norm": "batch"}}, "data": data, "train": train, **changes}
    accuracy: float = simulate(Experiment(strategy=strategy, rounds=1, **settings)).metrics[-1]["accuracy"]
    return accuracy
