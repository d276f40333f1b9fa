"""A source: one labelled image data set as tensors, found by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import entry_points
from pathlib import Path

import torch
from torch import Tensor

from fedkd.errors import InputError, unknown
from fedkd.randomness import generator


@dataclass(frozen=True, eq=False)
class Source:
    """A labelled image data set. Bad shapes, dtypes or labels raise InputError at construction."""

    name: str
    train_images: Tensor  # (N, C, H, W) uint8
    train_labels: Tensor  # (N,) int64
    test_images: Tensor  # (M, C, H, W) uint8
    test_labels: Tensor  # (M,) int64
    classes: tuple[str, ...]
    groups: Tensor | None = None  # (N,) int64: whose each training image is (a writer, a user ...)

    def __post_init__(self) -> None:
        for split, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            _check_split(f"data source {self.name!r}, {split} split", images, labels, len(self.classes))
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            shapes = tuple(self.train_images.shape[1:]), tuple(self.test_images.shape[1:])
            raise InputError(f"data source {self.name!r}: train images are {shapes[0]} but test images {shapes[1]}")
        if self.groups is not None and self.groups.shape != self.train_labels.shape:
            raise InputError(f"data source {self.name!r}: groups must name one owner for each training image")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    @cached_property
    def content_hash(self) -> str:
        """A hex digest of the images and labels: equal content, equal hash, whatever the name or place."""
        digest = hashlib.blake2b(digest_size=16)
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def mean(self) -> Tensor:
        """Mean of each channel over the training images, of pixels in 0..1. Shape (C,)."""
        return self._moments[0]

    @property
    def std(self) -> Tensor:
        """Standard deviation of each channel, likewise; 1 where a channel is constant. Shape (C,)."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return channel_moments(self.train_images)


def channel_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) of each channel of uint8 images (N, C, H, W), pixels in 0..1.

    Counting pixel values makes them exact, so the number of threads does not change a bit.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])  # (C, 256)
    shares = counts.double() / counts.sum(1, keepdim=True)  # (C, 256)
    mean = (shares * values).sum(1)  # (C,)
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)  # (C,)
    std = torch.where(variance > 0, variance.sqrt(), 1.0)
    return mean.float(), std.float()


def hold_out(count: int, share: float) -> tuple[Tensor, Tensor]:
    """Row numbers of a train and a test split, for sets that come without one. The same cut for every run.

    >>> [len(rows) for rows in hold_out(1797, 0.2)]
    [1438, 359]
    """
    order = torch.randperm(count, generator=generator(0, "test split"))
    held = int(count * share)
    return order[held:].sort().values, order[:held].sort().values


def load_source(
    name: str, *, path: str = "", image_column: str = "", label_column: str = "", natural_column: str = ""
) -> Source:
    """Load a data set once per process.

    Args:
        name: ``digits``, ``fashion_mnist``, ``cifar10``, a name in entry point group "fedkd.data", a Hugging Face id
            (``owner/name``) or a local path.
        path: where the files are, when not in their usual place. The network is asked only where no file is local.
        image_column: the column of the images; found by itself where only one can be it. Likewise ``label_column``.
        natural_column: the column that says whose an image is, for ``partition = "natural_id"``.

    Raises:
        InputError: an unknown name, a missing path, files that are no images, or columns that do not fit.
    """
    return _load(name, path, (image_column, label_column, natural_column))


@lru_cache(maxsize=8)
def _load(name: str, path: str, columns: tuple[str, str, str]) -> Source:
    if name in NAMED:
        return NAMED[name](path, columns)
    for installed in entry_points(group="fedkd.data", name=name):  # a package's function () -> Source
        source: Source = installed.load()()
        return source
    looks_local = name.startswith((".", "/", "~")) or name.endswith(".parquet") or Path(name).expanduser().exists()
    if not looks_local and not path and name.count("/") != 1:
        raise unknown("data.source", name, NAMED, cure=", a Hugging Face id owner/name, or a local path")
    return _from_tables(name, path or (name if looks_local else ""), name, columns)


def _from_tables(name: str, path: str, hub_id: str, columns: tuple[str, str, str]) -> Source:
    from fedkd.data.columns import read_source
    from fedkd.data.tables import hub_tables, local_tables

    tables = local_tables(Path(path).expanduser()) if path else hub_tables(hub_id)
    return read_source(name, tables, *columns)


def _digits(path: str, columns: tuple[str, str, str]) -> Source:
    if path or any(columns):
        raise InputError("data.source 'digits' comes with scikit-learn: leave data.path and the column names out")
    from sklearn.datasets import load_digits

    pixels, numbers = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)  # pixels were 0..16
    labels = torch.from_numpy(numbers).to(torch.int64)
    train, test = hold_out(len(labels), 0.2)
    names = tuple(str(digit) for digit in range(10))
    return Source("digits", images[train], labels[train], images[test], labels[test], names)


def _fashion_mnist(path: str, columns: tuple[str, str, str]) -> Source:
    from fedkd.data.idx import DEBIAN_FASHION_MNIST, FASHION_MNIST_CLASSES, has_idx_files, read_idx_source

    folder = Path(path).expanduser() if path else DEBIAN_FASHION_MNIST
    if has_idx_files(folder):
        return read_idx_source("fashion_mnist", folder, FASHION_MNIST_CLASSES)
    return _from_tables("fashion_mnist", path, "zalando-datasets/fashion_mnist", columns)


def _cifar10(path: str, columns: tuple[str, str, str]) -> Source:
    return _from_tables("cifar10", path, "uoft-cs/cifar10", columns)


NAMED: dict[str, Callable[[str, tuple[str, str, str]], Source]] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
}


def _check_split(where: str, images: Tensor, labels: Tensor, classes: int) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise InputError(f"{where}: images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
    if images.shape[1] not in (1, 3):
        raise InputError(f"{where}: images have {images.shape[1]} channels, must have 1 or 3")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise InputError(f"{where}: labels must be int64 ({len(images)},), not {labels.dtype} {tuple(labels.shape)}")
    if not len(labels):
        raise InputError(f"{where}: there are no images")
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"{where}: labels run from {labels.min()} to {labels.max()}, must lie in 0..{classes - 1}")
