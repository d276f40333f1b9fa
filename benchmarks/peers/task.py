"""What every contender of ``engine.py`` trains: data, net and optimiser. It needs torch and numpy, and nothing of fedkd.

Each contender is a script ``DATA CLIENTS ROUNDS``; DATA is the file that ``write_data`` of ``engine.py`` makes. After every
round it prints a line of JSON, and at the end one with the global net's loss on the test images: it shows that all learn alike.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

IMAGES, BATCH, LR, MOMENTUM, DECAY = 64, 32, 0.01, 0.9, 1e-5  # a client's images, and how it trains on them, one epoch a round


def make_net() -> nn.Sequential:
    """The default net "cnn" of fedkd for images of 1x28x28 and 10 classes: 52,138 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding="same"), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, padding="same"), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def flattened(net: nn.Module) -> Tensor:
    """All parameters as one vector, each in the order of its axes: libraries that flatten by ``view`` refuse channels last."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()])


def make_optimizer(net: nn.Module) -> torch.optim.SGD:
    """The fastest that torch has."""
    return torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, fused=True)


@dataclass(frozen=True)
class Task:
    """Images (N, 1, 28, 28) as bytes and labels (N,) of all clients, one after the other, and how often all of them train."""

    images: Tensor
    labels: Tensor
    mean: float
    std: float
    test_images: Tensor
    test_labels: Tensor
    clients: int
    rounds: int

    def normalised(self, images: Tensor) -> Tensor:
        """As floats. With one channel, channels last is the same bytes."""
        return (images.float() / 255 - self.mean) / self.std

    def holdings(self) -> list[tuple[Tensor, Tensor]]:
        """Images (IMAGES, 1, 28, 28) and labels (IMAGES,) of each client, normalised once."""
        return list(zip(self.normalised(self.images).split(IMAGES), self.labels.split(IMAGES), strict=True))

    @torch.inference_mode()
    def finish(self, net: nn.Module) -> None:
        """Prints the loss of the global net."""
        loss = cross_entropy(net.eval()(self.normalised(self.test_images)), self.test_labels)
        print(json.dumps({"test_loss": round(float(loss), 4)}), flush=True)


def read_task() -> Task:
    """The task that the command line names, in one torch thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path, clients, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with np.load(path) as file:
        images, labels, test_images, test_labels = (torch.from_numpy(file[name]) for name in ARRAYS)
    rows = clients * IMAGES
    mean, std = images.float().mean() / 255, images.float().std() / 255
    return Task(images[:rows], labels[:rows], float(mean), float(std), test_images, test_labels, clients, rounds)


ARRAYS = ("images", "labels", "test_images", "test_labels")


class Rounds:
    """Prints seconds, and this process's seconds of processor time, from one call to the next: all that a round costs."""

    def __init__(self) -> None:
        self.round = 0
        self.last = (time.perf_counter(), time.process_time())

    def done(self) -> None:
        """The end of a round."""
        now, self.round = (time.perf_counter(), time.process_time()), self.round + 1
        row = {"round": self.round, "seconds": now[0] - self.last[0], "processor": now[1] - self.last[1]}
        print(json.dumps(row), flush=True)
        self.last = now


def shuffled_batches(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """A client's images and labels in a new order, in batches."""
    return [(images[rows], labels[rows]) for rows in torch.randperm(len(labels)).split(BATCH)]


def train_step(net: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """One step on a batch."""
    loss = cross_entropy(net(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
