"""What every code of ``side_by_side_teachers.py`` is given: images, batches in their order, nets. It needs torch, not fedkd.

Each driver is a script ``TASK COPY METHOD``: the file that ``write_task`` there makes, a checkout of the rival's repository,
and what to train. It prints a line of JSON an epoch: the training loss that the rival's loop returns, and the test accuracy.
So that no rounding differs without need, nets lie in memory as fedkd lays them, channels last, and SGD is torch's fused one;
a method whose name ends in "other layout" has torch's defaults instead, and shows what rounding alone does to the result.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

DEFAULTS = sys.argv[-1].endswith("other layout")
LAYOUT = torch.contiguous_format if DEFAULTS else torch.channels_last


class Net(nn.Module):
    """fedkd's "cnn" with BatchNorm, with what the rivals' loops ask of a net: ``is_feat`` gives its maps and features too."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        state = {name.removeprefix("encoder.").removeprefix("heads."): tensor for name, tensor in state.items()}
        kernels = [tensor for name, tensor in state.items() if name.startswith("convolutions") and name.endswith("weight")]
        self.convolutions = nn.ModuleList(nn.Conv2d(k.shape[1], k.shape[0], k.shape[2], padding="same") for k in kernels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(len(k)) for k in kernels)
        self.hidden = nn.Linear(*reversed(state["hidden.weight"].shape))
        self.classifier = nn.Linear(*reversed(state["classifier.weight"].shape))
        self.load_state_dict(state)
        self.to(memory_format=LAYOUT)  # type: ignore[call-overload]

    def forward(self, images: Tensor, is_feat: bool = False, preact: bool = False) -> Any:
        """Logits (B, C); with ``is_feat`` a list before them: images, each map (B, c, h, w) after ReLU, features (B, D).

        The rivals' nets have the output of their first layer, which no loss reads, in the place of the images.
        """
        feats = [images]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            feats.append(torch.relu(nn.functional.max_pool2d(norm(convolution(feats[-1])), 2)))
        feats.append(torch.relu(self.hidden(feats[-1].flatten(1))))
        logits = self.classifier(feats[-1])
        return ([each.contiguous() for each in feats], logits) if is_feat else logits  # RepDistiller's SP views them


@dataclass(frozen=True)
class Task:
    """A seed's: images (N, 1, 28, 28) and test images as floats, the order of an epoch's samples (E, N), nets by name."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    orders: dict[str, Tensor]
    nets: dict[str, dict[str, Tensor]]
    seed: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    milestones: list[int]
    gamma: float

    @property
    def options(self) -> Namespace:
        """The names under which RepDistiller's ``train_student.py`` hands them on."""
        return Namespace(
            learning_rate=self.lr, lr_decay_epochs=self.milestones, lr_decay_rate=self.gamma, print_freq=10**9, distill="kd"
        )

    def optimizer(self, nets: nn.Module) -> torch.optim.SGD:
        """As all of them make it."""
        return torch.optim.SGD(
            nets.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            fused=not DEFAULTS,
        )

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        return self.lr * self.gamma ** sum(epoch > milestone for milestone in self.milestones)


class Batches:
    """A stand-in for the DataLoader: each pass over it is the next epoch, in the task's order."""

    def __init__(self, task: Task, who: str, *, with_ids: bool = True) -> None:
        self.task, self.dataset, self.with_ids = task, task.labels, with_ids
        self.epochs = iter(task.orders[who])

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for ids in next(self.epochs).split(self.task.batch_size):
            yield (
                self.task.images[ids].contiguous(memory_format=LAYOUT),
                self.task.labels[ids],
                *([ids] if self.with_ids else []),
            )

    def __len__(self) -> int:
        return -(-len(self.task.labels) // self.task.batch_size)


class TestBatches:
    """All test images, in order."""

    def __init__(self, task: Task) -> None:
        self.task, self.dataset = task, task.test_labels

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images = self.task.test_images.contiguous(memory_format=LAYOUT)
        return iter(zip(images.split(500), self.task.test_labels.split(500), strict=True))

    def __len__(self) -> int:
        return -(-len(self.task.test_labels) // 500)


def read_task() -> tuple[Task, str]:
    """The task and the method that the command line names; the copy is where imports look first; one thread."""
    path, copy, method = sys.argv[1:]
    sys.path.insert(0, copy)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of size_average=False, which torch still takes
    task = Task(**torch.load(path, weights_only=True))
    torch.manual_seed(task.seed)
    return task, method


class Report:
    """Writes a line an epoch to standard output; what the rival's code prints goes to standard error from here on."""

    def __init__(self) -> None:
        self.out, sys.stdout = sys.stdout, sys.stderr
        self.began = time.perf_counter()

    def __call__(self, loss: float | None, *percent: float) -> None:
        """The mean training loss of an epoch, and the accuracy of each net after it."""
        row = {"loss": loss, "accuracies": [round(value / 100, 6) for value in percent]}
        print(json.dumps({**row, "seconds": time.perf_counter() - self.began}), file=self.out, flush=True)
