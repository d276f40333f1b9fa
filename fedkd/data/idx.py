"""Yann LeCun's idx format, in which MNIST and its kin come: http://yann.lecun.com/exdb/mnist."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.data.source import Source

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def has_idx_files(folder: Path) -> bool:
    """Whether the folder holds a set in the idx format."""
    return any(folder.glob("train-images-idx3-ubyte*"))


def read_idx_source(name: str, folder: Path, classes: tuple[str, ...]) -> Source:
    """The set whose four files (train and t10k, images and labels) lie in the folder, packed by gzip or not."""
    splits = ("train", "t10k")
    train_inputs, test_inputs = (read_idx(_find(folder, f"{split}-images-idx3-ubyte"), 3)[:, None] for split in splits)
    train_labels, test_labels = (read_idx(_find(folder, f"{split}-labels-idx1-ubyte"), 1).long() for split in splits)
    return Source(name, train_inputs, train_labels, test_inputs, test_labels, classes)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The uint8 tensor in an idx file: two zero bytes, the type (8: ubyte), how many dimensions, sizes, values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {str(path)!r}: {error}") from error
    start = 4 + 4 * dimensions
    sizes = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    values = torch.frombuffer(bytearray(data) or bytearray(1), dtype=torch.uint8)[start:]
    if data[:4] != bytes((0, 0, 8, dimensions)) or values.numel() != torch.Size(sizes).numel():
        raise InputError(f"{str(path)!r} is no idx file of bytes in {dimensions} dimensions, or is cut short")
    return values.view(sizes)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise InputError(f"{str(folder)!r} lacks {name}.gz: put all four idx files there, or name another data.path")
