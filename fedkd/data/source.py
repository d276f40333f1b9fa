"""A source: one labelled image data set as tensors, found by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fedkd.base.errors import InputError, unknown
from fedkd.base.randomness import generator
from fedkd.data.pixels import channel_moments, in_channels


@dataclass(frozen=True, eq=False)
class Source:
    """A labelled image data set. Bad shapes, dtypes or labels raise InputError at construction."""

    name: str
    train_images: Tensor  # (N, C, H, W) uint8
    train_labels: Tensor  # (N,) int64, -1 where there is no label
    test_images: Tensor  # (M, C, H, W) uint8
    test_labels: Tensor  # (M,) int64, likewise
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
        if len(set(self.classes)) < len(self.classes):
            raise InputError(f"data source {self.name!r}: two classes have the same name: {', '.join(self.classes)}")
        if bool((self.test_labels < 0).all()):
            raise InputError(f"data source {self.name!r}: no test image has a label")
        if self.groups is not None and self.groups.shape != self.train_labels.shape:
            raise InputError(f"data source {self.name!r}: groups must name one owner for each training image")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of an image."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    @cached_property
    def content_hash(self) -> str:
        """A hex digest of images, labels, owners and class names: equal content, equal hash, whatever the name or place."""
        digest = hashlib.blake2b(repr(tuple(map(str, self.classes))).encode(), digest_size=16)
        groups = () if self.groups is None else (self.groups,)
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels, *groups):
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


@dataclass(frozen=True)
class Given:
    """A source at hand as the function that gives it."""

    source: Source

    def __call__(self) -> Source:
        """The source."""
        return self.source


def hold_out(count: int, share: float, *, only: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Row numbers of a train and a test split, for sets that come without one. The same cut for every run.

    Args:
        count: how many rows.
        share: of the test split.
        only: (count,) bool, the rows that may be tested on; default, all.

    >>> [len(rows) for rows in hold_out(1797, 0.2)]
    [1438, 359]
    """
    order = torch.randperm(count, generator=generator(0, "test split"))
    if only is not None:
        order = torch.cat([order[only[order]], order[~only[order]]])
        count = int(only.sum())
    held = int(count * share)
    return order[held:].sort().values, order[:held].sort().values


def load_source(
    name: str,
    *,
    path: str = "",
    image_column: str = "",
    label_column: str = "",
    natural_column: str = "",
    layout: str = "",
    channels: str = "",
) -> Source:
    """Load a data set: once per process, and again when its files have changed.

    Args:
        name: ``digits``, ``fashion_mnist``, ``cifar10``, a name in entry point group "fedkd.data", a Hugging Face id
            (``owner/name``) or a local path.
        path: where the files are, when not in their usual place. The network is asked only where no file is local.
        image_column: the column of the images; found by itself where only one can be it. Likewise ``label_column``.
        natural_column: the column that says whose an image is, for ``partition = "natural_id"``.
        layout: what the levels of image folders mean, e.g. ``"split/client/class"``; found by itself where it is clear.
        channels: ``"grey"`` or ``"colour"`` reads all images so; else they are in colour if one of them is.

    Raises:
        InputError: an unknown name, a missing path, files that are no images, or columns that do not fit.
    """
    for installed in entry_points(group="fedkd.data", name=name):  # a package's function () -> Source
        source: Source = installed.load()()
        return with_channels(source, channels)
    options = Options(image_column, label_column, natural_column, layout, channels)
    return _load(name, path, options, source_stamp(name, path))


def source_stamp(name: str, path: str = "") -> str:
    """A fingerprint of the files that ``load_source`` would read: equal as long as none of them changes. Empty for none."""
    from fedkd.data.stamp import stamp

    if path or _is_local(name):
        return stamp(Path(path or name).expanduser())
    return ""


def with_channels(source: Source, channels: str) -> Source:
    """The source with all its images in ``"grey"`` or in ``"colour"``; with ``""`` as it is."""
    count = {"grey": 1, "colour": 3}.get(channels, source.shape[0])
    if count == source.shape[0]:
        return source
    return replace(
        source, train_images=in_channels(source.train_images, count), test_images=in_channels(source.test_images, count)
    )


class Options(NamedTuple):
    """What a user says of files in which a thing cannot be found by itself."""

    image_column: str
    label_column: str
    natural_column: str
    layout: str
    channels: str


def _is_local(name: str) -> bool:
    return name not in NAMED and (
        name.startswith((".", "/", "~")) or name.endswith(".parquet") or Path(name).expanduser().exists()
    )


@lru_cache(maxsize=8)
def _load(name: str, path: str, options: Options, stamp: str) -> Source:
    if name in NAMED:
        return with_channels(NAMED[name](path, options), options.channels)
    if not _is_local(name) and not path and name.count("/") != 1:
        raise unknown("data.source", name, NAMED, cure=", a Hugging Face id owner/name, or a local path")
    return _from_tables(name, path or (name if _is_local(name) else ""), name, options)


def _from_tables(name: str, path: str, hub_id: str, options: Options) -> Source:
    from fedkd.data.columns import read_source
    from fedkd.data.tables import hub_tables, local_tables

    found = local_tables(Path(path).expanduser(), options.layout) if path else hub_tables(hub_id)
    return read_source(name, found, options)


def _digits(path: str, options: Options) -> Source:
    if path or any(options[:-1]):
        raise InputError("data.source 'digits' comes with scikit-learn: leave data.path, data.layout and the column names out")
    from sklearn.datasets import load_digits

    pixels, numbers = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)  # pixels were 0..16
    labels = torch.from_numpy(numbers).to(torch.int64)
    train, test = hold_out(len(labels), 0.2)
    names = tuple(str(digit) for digit in range(10))
    return Source("digits", images[train], labels[train], images[test], labels[test], names)


def _fashion_mnist(path: str, options: Options) -> Source:
    from fedkd.data.idx import DEBIAN_FASHION_MNIST, FASHION_MNIST_CLASSES, has_idx_files, read_idx_source

    folder = Path(path).expanduser() if path else DEBIAN_FASHION_MNIST
    if has_idx_files(folder):
        return read_idx_source("fashion_mnist", folder, FASHION_MNIST_CLASSES)
    return _from_tables("fashion_mnist", path, "zalando-datasets/fashion_mnist", options)


def _cifar10(path: str, options: Options) -> Source:
    return _from_tables("cifar10", path, "uoft-cs/cifar10", options)


NAMED: dict[str, Callable[[str, Options], Source]] = {
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
    if labels.min() < -1 or labels.max() >= classes:
        bounds = f"labels run from {labels.min()} to {labels.max()}"
        raise InputError(f"{where}: {bounds}, must lie in 0..{classes - 1}, or be -1 where there is no label")
