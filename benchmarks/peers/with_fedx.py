"""The official code of FedX: its own main on the images, parts and net that are given, and the features that come out.

    python with_fedx.py CODE TASK OUT      # CODE: a copy of github.com/Sungwon-Han/FEDX

TASK is an .npz that ``fedx_budget.py`` writes; OUT gets the features of train and test images after each round that is
evaluated. Changed while it runs, as it needs a GPU, the internet and an old PyTorch otherwise: ``.cuda()`` does nothing;
iterators of loaders have ``next`` again; the images and the clients' parts are those given; the net is the small one given in
place of ResNet-18, with the code's own heads; the linear probe is fitted to the features by who asks. Its training, losses,
augmentation, sampling and averaging are as they are.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data.dataloader import _BaseDataLoaderIter

code, given, out = (Path(argument).resolve() for argument in sys.argv[1:4])
with np.load(given) as file:
    arrays = {name: file[name] for name in file.files}
task: dict[str, Any] = json.loads(str(arrays["task"]))
torch.set_num_threads(1)
sys.path.insert(0, str(code))

import datasets  # noqa: E402
import losses  # noqa: E402
import model  # noqa: E402
import utils  # noqa: E402


class SmallNet(nn.Module):
    """fedkd's "cnn" with BatchNorm: (B, 3, 32, 32) -> (B, D)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *task["channels"]]
        stages = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Conv2d(before, after, 3, padding="same"), nn.BatchNorm2d(after), nn.MaxPool2d(2), nn.ReLU())
        ]
        side = 32 >> len(task["channels"])
        self.encoder = nn.Sequential(*stages, nn.Flatten(), nn.Linear(widths[-1] * side * side, task["hidden"]), nn.ReLU())
        self.fc = nn.Linear(task["hidden"], 10)  # the code takes it off


def read_images(data_set: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) and labels (N,) of the split that a data set of the code's stands for."""
    split = "train" if data_set.train else "test"
    rows = slice(None) if data_set.dataidxs is None else data_set.dataidxs
    return arrays[f"{split}_images"][rows], arrays[f"{split}_labels"][rows]


def partition(*_: Any, **__: Any) -> tuple[Any, ...]:
    """What the code's ``partition_data`` gives, by the parts given."""
    parts = {client: np.flatnonzero(arrays["clients"] == client) for client in range(task["clients"])}
    return arrays["train_images"], arrays["train_labels"], arrays["test_images"], arrays["test_labels"], parts, None


features: dict[str, np.ndarray] = {}
rounds_done = 0


@torch.no_grad()
def keep_features(net: nn.Module, train: Any, test: Any) -> tuple[float, float]:
    """In place of the code's probe: the features of the rounds that count."""
    global rounds_done
    rounds_done += 1
    if rounds_done % task["every"] == 0 or rounds_done == task["rounds"]:
        net.eval()
        for split, loader in (("train", train), ("test", test)):
            features[f"{split}_{rounds_done}"] = torch.cat([net(images)[0] for images, *_ in loader]).numpy()
    return 0.0, 0.0


nn.Module.cuda = nn.Module.cpu  # type: ignore[method-assign, assignment]
Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
_BaseDataLoaderIter.next = _BaseDataLoaderIter.__next__  # type: ignore[attr-defined]
datasets.CIFAR10_truncated.__build_truncated_dataset__ = read_images
model.ResNet18_cifar10 = SmallNet
utils.partition_data, utils.test_linear_fedX = partition, keep_features
if task["base_alone"]:  # SimCLR: what is left of its loss without FedX's terms
    contrast, calls = losses.nt_xent, [0]

    def local_alone(first: Tensor, second: Tensor, temperature: float) -> Tensor:
        """The code's contrastive loss; nothing for every second call, which is the global one."""
        calls[0] += 1
        return contrast(first, second, temperature) if calls[0] % 2 else 0.0 * first.sum()

    losses.nt_xent = local_alone
    losses.js_loss = lambda first, *_: 0.0 * first.sum()

with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    sys.argv = ["main.py", "--device", "cpu", "--logdir", f"{folder}/", "--modeldir", f"{folder}/"]
    for option, value in task["options"].items():
        sys.argv += [f"--{option}", str(value)]
    runpy.run_path(str(code / "main.py"), run_name="__main__")
np.savez(out, **features)
