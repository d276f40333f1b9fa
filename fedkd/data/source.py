"""A source: one labelled image data set as tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fedkd.base.errors import InputError
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
