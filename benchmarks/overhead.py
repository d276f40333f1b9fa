"""What a cell of a table costs beyond its bare training: processor time of a whole run over that of a careful loop.

    python benchmarks/overhead.py               # three cells, three turns: about a quarter of an hour of one core
    python benchmarks/overhead.py --repeats 1   # a try

A cell is run as the tables run it (fedx_budget.py, pfl_cifar10.py, when_helps.py), in one thread of a process that has run
one before: whole, with all its evaluations, and its rounds alone. The careful loop trains the same net on the same clients'
samples, as many batches of the same size and views, and averages the weights: no messages, records, guard or evaluation. The
three take turns; a ratio is of the same turn, and the median of the turns counts, with the least and the most beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fedx_budget
import torch
from fedx_careful import HEADS, batches, train_epochs
from helps.data import write_data
from helps.plan import DATA, DEFAULT
from helps.plan import Cell as HelpsCell
from peers.pfl_cifar10_task import make_net
from torch import Tensor
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from torch import nn

    from fedkd import Experiment

RESULTS = Path(__file__).parent / "results" / "overhead.json"


def fedx_cell() -> tuple[Experiment, str]:
    """FedX on its small net, ten clients of about 400 images, evaluated after each round: the shortest of its table."""
    return fedx_budget.Cell("fedx", "plain", 8, 2, 0).experiment(), "in-process"


def users_cell() -> tuple[Experiment, str]:
    """FedAvg as pfl's CIFAR-10 benchmark has it, on Fashion-MNIST: 50 of 1,000 users of 50 images, 20 of its 100 rounds."""
    from fedkd import Experiment

    data = {"source": "fashion_mnist", "train_limit": 50_000, "clients": 1000, "partition": "iid", "client_test": 0.0}
    train = {"batch_size": 10, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    often = {"rounds": 20, "evaluate_every": 10, "evaluate_clients": 0, "participation": 0.05}
    return Experiment(strategy="fedavg", nets=make_net, data=data, train=train, **often), "in-process"


def helps_cell() -> tuple[Experiment, str]:
    """FedAvg of the page on what helps when: ten clients of about 30 small images, a linear net with one hidden layer."""
    write_data(DATA)
    return HelpsCell("images", DEFAULT, "fedavg", 0).experiment(), "together"


CELLS: dict[str, Callable[[], tuple[Experiment, str]]] = {
    "FedX, 10 clients of 400 images": fedx_cell,
    "FedAvg, 50 users of 50 images": users_cell,
    "FedAvg, 10 clients of 30 images": helps_cell,
}


def clients_of(experiment: Experiment) -> list[tuple[Tensor, Tensor]]:
    """Training images (N, C, H, W), as they are stored, and labels (N,) of all clients."""
    from fedkd.experiment.algorithm.loaded import federation_of

    data = federation_of(experiment.data, experiment.seed)
    parts = [data.client_train(client).indices for client in range(experiment.data.clients)]
    images = data.train.inputs
    assert isinstance(images, Tensor)
    return [(images[part], data.train.labels[part]) for part in parts]


def moments_of(experiment: Experiment) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1, C, 1, 1) of the data set."""
    from fedkd.experiment.algorithm.loaded import federation_of

    mean, std = (moment.view(1, -1, 1, 1) for moment in federation_of(experiment.data, experiment.seed).test.moments)
    return mean, std


def build(experiment: Experiment, clients: list[tuple[Tensor, Tensor]], heads: Sequence[str] = ("classifier",)) -> nn.Module:
    """The cell's net."""
    from fedkd.nets import build_net

    if callable(experiment.nets):
        return experiment.nets(tuple(clients[0][0].shape[1:]), 10)
    name = experiment.nets if isinstance(experiment.nets, str) else experiment.nets[0]
    shape, options = tuple(clients[0][0].shape[1:]), experiment.net_options.get(name, {})
    return build_net(name, shape=shape, classes=10, heads=heads, options=options)


def fedavg_loop(experiment: Experiment) -> Callable[[], None]:
    """FedAvg by hand: normalised once, fused SGD, the mean of the weights."""
    mean, std = moments_of(experiment)
    clients = [((images.float() / 255 - mean) / std, labels) for images, labels in clients_of(experiment)]
    train, taking_part = experiment.train, max(1, round(len(clients) * experiment.participation))

    def loop() -> None:
        net = build(experiment, clients).to(memory_format=torch.channels_last)
        parameters = list(net.parameters())
        weights = [parameter.detach().clone() for parameter in parameters]
        for _ in range(experiment.rounds):
            total = [torch.zeros_like(weight) for weight in weights]
            for client in torch.randperm(len(clients))[:taking_part].tolist():
                images, labels = clients[client]
                with torch.no_grad():
                    torch._foreach_copy_(parameters, weights)
                settings = {"lr": train.lr, "momentum": train.momentum, "weight_decay": train.weight_decay}
                optimizer = torch.optim.SGD(parameters, **settings, fused=True)
                for _ in range(int(train.epochs)):
                    for rows in torch.randperm(len(labels)).split(train.batch_size):
                        loss = cross_entropy(net(images[rows]), labels[rows])
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
                with torch.no_grad():
                    torch._foreach_add_(total, parameters, alpha=1 / taking_part)
            weights = total

    return loop


def fedx_loop(experiment: Experiment) -> Callable[[], None]:
    """FedX by hand: the teacher is the global net, weights are averaged by samples."""
    from fedkd.data.views import simclr

    clients, moments, train = clients_of(experiment), moments_of(experiment), experiment.train
    samples = sum(len(labels) for _, labels in clients)

    def loop() -> None:
        net, teacher = (build(experiment, clients, HEADS).to(memory_format=torch.channels_last) for _ in "12")
        teacher.eval().requires_grad_(False)
        weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        for _ in range(experiment.rounds):
            total = {name: torch.zeros_like(tensor, dtype=torch.float) for name, tensor in weights.items()}
            for images, labels in clients:
                net.load_state_dict(weights)
                teacher.load_state_dict(weights)
                epochs = (batches(images, moments, train.batch_size, simclr) for _ in range(int(train.epochs)))
                train_epochs(net, teacher, chain.from_iterable(epochs), train.lr)
                for name, tensor in net.state_dict().items():
                    total[name] += tensor * (len(labels) / samples)
            weights = total

    return loop


def processor_seconds(run: Callable[[], object]) -> float:
    """Of this process."""
    began = time.process_time()
    run()
    return time.process_time() - began


def seconds_of_rounds(experiment: Experiment, engine: str) -> float:
    """Of the cell's rounds, none evaluated: a longer run, from the end of round 0 to the end of the last but one."""
    from fedkd import simulate

    ends: list[float] = []
    longer = experiment.model_copy(update={"evaluate_every": 10**6, "rounds": experiment.rounds + 1})
    simulate(longer, engine, on_round=lambda row: ends.append(time.process_time()))
    return ends[-2] - ends[0]


def measure(name: str, repeats: int) -> dict[str, Any]:
    """One cell and its loop, in turn."""
    from fedkd import simulate

    experiment, engine = CELLS[name]()
    bare = (fedx_loop if "FedX" in name else fedavg_loop)(experiment)
    simulate(experiment.model_copy(update={"rounds": 1}), engine)
    turns = []
    for number in range(repeats):
        turn = {
            "bare": processor_seconds(bare),
            "rounds": seconds_of_rounds(experiment, engine),
            "cell": processor_seconds(partial(simulate, experiment, engine)),
        }
        said = ", ".join(f"{who} {value:.2f} s" for who, value in turn.items())
        print(f"  {name} ({number + 1}/{repeats}): {said}", flush=True)
        turns.append(turn)
    found: dict[str, Any] = {"processor_seconds": turns}
    for who in ("rounds", "cell"):
        ratios = [turn[who] / turn["bare"] for turn in turns]
        found |= {who: statistics.median(ratios), f"{who}_range": [min(ratios), max(ratios)]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[*CELLS], choices=[*CELLS], metavar="CELL")
    given = parser.parse_args()
    from fedkd.results.environment import cpu_model

    torch.set_num_threads(1)
    machine = {"cores": os.cpu_count(), "cpu": cpu_model(), "load": os.getloadavg()[0]}
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    cells = kept.get("cells", {}) | {name: measure(name, given.repeats) for name in given.only}
    RESULTS.write_text(json.dumps({"machine": machine, "cells": cells}, indent=1) + "\n")
    for name, found in cells.items():
        print(f"{name}: {found['rounds']:.2f} x bare; with evaluations, {found['cell']:.2f} x")


if __name__ == "__main__":
    main()
