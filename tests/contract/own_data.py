"""One data set whose samples belong to three clients, and the same split up: a file for each node, and one for the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from grids.renumbered import RenumberedGrid
from torch import Tensor

from fedkd.base.randomness import generator
from fedkd.data import Source
from fedkd.data.dealt_out import DealtOut
from fedkd.experiment.algorithm.data_section import Data
from fedkd.experiment.algorithm.loaded import federation_of

CLASSES = ("ant", "bee", "cow")
CLIENTS, SEED = 3, 0


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise (N, 1, 8, 8) with a bright row that tells the class."""
    rng = generator(seed, "images")
    labels = torch.arange(count) % len(CLASSES)
    noise = torch.randint(90, (count, 1, 8, 8), dtype=torch.uint8, generator=rng)
    noise[torch.arange(count), 0, 2 * labels] += 150
    return noise, labels


def joined() -> Source:
    """130 images of three clients, of which the last lacks a class; 30 for the global test."""
    train, labels = images(130, 0)
    owners = torch.tensor([0] * 45 + [1] * 45 + [2] * 40)
    labels[90:] = torch.where(labels[90:] == 2, 1, labels[90:])
    return Source("joined", train, labels, *images(30, 1), CLASSES, owners)


def write(file: Path, **splits: tuple[Tensor, Tensor]) -> str:
    """An .npz of images and class names by split."""
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"x_{split}": inputs.numpy() for split, (inputs, _) in splits.items()}
    np.savez(file, **arrays, **{f"y_{split}": np.asarray(CLASSES)[labels.numpy()] for split, (_, labels) in splits.items()})
    return str(file)


@dataclass(frozen=True)
class Split:
    """The same experiment twice: the keys of [data] of the joined set, those of each its own, and the nodes' files."""

    joined: Mapping[str, Any]
    own: Mapping[str, Any]
    nodes: tuple[str, ...]

    def grid(self) -> RenumberedGrid:
        """A deployment's grid, whose nodes each have their file and the server none of them."""
        configs = {70 + 7 * id: {"partition-id": id, "data-path": path} for id, path in enumerate(self.nodes)}
        grid = RenumberedGrid(configs)
        grid._present = list(configs)  # nobody need be waited for
        return grid


def split_up(folder: Path, *, public: int = 0, validation: int = 0, **keys: Any) -> Split:
    """Write the joined set's parts, each in the order in which it is dealt out: which samples make a batch rests on it."""
    source = joined()
    data = {"clients": CLIENTS, "partition": "natural_id", "client_test": 0.2, "validation": validation, **keys}
    if public:
        data |= {"public": public, "public_source": write(folder / "public.npz", train=images(public, 2), test=images(3, 3))}
    federation = federation_of(Data.model_validate({"source": source, **data}), SEED)
    assert isinstance(federation, DealtOut)
    rows = [federation._rows[client] for client in range(CLIENTS)]
    nodes = [
        write(folder / f"node{id}.npz", train=(source.train_images[mine], source.train_labels[mine]))  # type: ignore[index]
        for id, mine in enumerate(rows)
    ]
    held = {"test": (source.test_images, source.test_labels)}
    if validation:
        drawn = torch.randperm(validation, generator=generator(SEED, "train limit")).argsort()
        mine = federation.validation.indices[drawn]  # type: ignore[union-attr]
        held["train"] = (source.train_images[mine], source.train_labels[mine])  # type: ignore[index,assignment]
    server = write(folder / "server.npz", **(held if validation else {"train": held["test"]}))  # type: ignore[arg-type]
    return Split({"source": source, **data}, {**data, "source": server, "partition": "own"}, tuple(nodes))
