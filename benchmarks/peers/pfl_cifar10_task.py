"""What codes of pfl's CIFAR-10 benchmark share: its net, "simple_cnn", the users' images, the test. It needs only torch."""

from __future__ import annotations

import json
import time

import numpy as np
import torch
from torch import Tensor, nn

COHORT, BATCH, LR, EVERY = 50, 10, 0.1, 10


def make_net(shape: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> nn.Sequential:
    """Two convolutions without padding, pooling and a hidden layer, with dropout, and Glorot's weights."""
    side = (shape[1] - 4) // 2
    net = nn.Sequential(
        *(nn.Conv2d(shape[0], 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.Linear(side * side * 64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, classes)),
    )
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return net


class Task:
    """The images of an .npz: (N, 32, 32, 3) as bytes, labels, and ``train_groups``; normalized over the training images."""

    def __init__(self, file: str) -> None:
        with np.load(file) as arrays:
            held = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        images, tested = (
            held[f"{split}_images"].permute(0, 3, 1, 2).float().div_(255).contiguous() for split in ("train", "test")
        )
        mean, std = (getattr(images, what)(dim=(0, 2, 3), keepdim=True) for what in ("mean", "std"))
        for each in (images, tested):
            each.sub_(mean).div_(std)
        order = held["train_groups"].argsort(stable=True)
        sizes = held["train_groups"].bincount().tolist()
        parts = images[order].split(sizes), held["train_labels"][order].split(sizes)
        self.users: list[tuple[Tensor, Tensor]] = list(zip(*parts, strict=True))
        self._test, self._began = (tested, held["test_labels"]), (time.perf_counter(), time.process_time())

    @torch.inference_mode()
    def evaluate(self, net: nn.Module, round_number: int) -> None:
        """Every so many rounds, print a line of JSON: accuracy on all test images, and seconds since the images were read.

        The net is left in eval mode.
        """
        if round_number % EVERY:
            return
        images, labels = self._test
        net.eval()
        right = [net(part).argmax(1) for part in images.split(1000)]
        line = {"round": round_number, "accuracy": float((torch.cat(right) == labels).float().mean())}
        clocks = {"seconds": time.perf_counter() - self._began[0], "cpu_seconds": time.process_time() - self._began[1]}
        print(json.dumps(line | clocks), flush=True)
