"""A source: one labelled data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs, Shape, count, describe, shape_of
from fedkd.base.randomness import generator
from fedkd.data.kinds import Kind, Moments, find_kind, tell_kind, vocabulary_of
from fedkd.data.pixels import in_channels
from fedkd.data.rows import hash_rows


@dataclass(frozen=True, eq=False)
class Source:
    """A labelled data set. Bad shapes, dtypes or labels raise InputError at construction.

    A sample is a tensor of any shape, or several by name. ``kind`` says what it is: ``"image"``, ``"vector"``, ``"sequence"``,
    ``"tokens"``, or a ``Kind`` of your own; left out, it is told by type and shape.

    >>> y = torch.arange(20) % 2
    >>> source = Source("table", torch.randn(20, 5), y, torch.randn(20, 5), y, ("healthy", "ill"))
    >>> source.kind.name, source.shape
    ('vector', (5,))
    """

    name: str
    train_inputs: Inputs  # (N, ...); rows may lie on disk, in a fedkd.data.MappedArray
    train_labels: Tensor  # (N,) int64, -1 where there is no label
    test_inputs: Inputs  # (M, ...), M = 0 where a client's own data come without a test split
    test_labels: Tensor  # (M,) int64, likewise
    classes: tuple[str, ...]
    groups: Tensor | None = None  # (N,) int64: whose each training sample is (a writer, a user ...)
    kind: Kind = None  # type: ignore[assignment]  # given as a name, or not at all, it is put in place below
    vocabulary: int = 0  # of tokens: how many ids there are; 0: the largest one that occurs, plus 1
    features: tuple[
        str, ...
    ] = ()  # what the numbers of a sample stand for: a table's columns and categories, letters of tokens

    def __post_init__(self) -> None:
        where = f"data source {self.name!r}"
        kind = find_kind(self.kind) if isinstance(self.kind, str) else self.kind
        object.__setattr__(self, "kind", kind or tell_kind(where, self.train_inputs))
        for split, inputs, labels in (
            ("train", self.train_inputs, self.train_labels),
            ("test", self.test_inputs, self.test_labels),
        ):
            self.kind.check(f"{where}, {split} split", inputs)
            _check_labels(f"{where}, {split} split", labels, count(inputs), len(self.classes), may_be_empty=split == "test")
        if shape_of(self.train_inputs) != shape_of(self.test_inputs):
            shapes = describe(self.shape), describe(shape_of(self.test_inputs))
            raise InputError(f"{where}: train samples are {shapes[0]} but test samples {shapes[1]}")
        if len(set(self.classes)) < len(self.classes):
            raise InputError(f"{where}: two classes have the same name: {', '.join(self.classes)}")
        if len(self.test_labels) and bool((self.test_labels < 0).all()):
            raise InputError(f"{where}: no test sample has a label")
        if self.groups is not None and self.groups.shape != self.train_labels.shape:
            raise InputError(f"{where}: groups must name one owner for each training sample")
        if self.kind.name == "tokens":
            self._count_vocabulary(where)

    def _count_vocabulary(self, where: str) -> None:
        needed = max(vocabulary_of(self.train_inputs), vocabulary_of(self.test_inputs))
        if self.vocabulary and needed > self.vocabulary:
            raise InputError(f"{where}: token {needed - 1} is beyond its vocabulary of {self.vocabulary}: give the right one")
        object.__setattr__(self, "vocabulary", self.vocabulary or needed)

    @property
    def train_images(self) -> Inputs:
        """``train_inputs``, as they were called while all samples were images."""
        return self.train_inputs

    @property
    def test_images(self) -> Inputs:
        """``test_inputs``, likewise."""
        return self.test_inputs

    @property
    def shape(self) -> Shape:
        """The shape of a sample: (C, H, W) of an image, (F,) of a vector, (L, F) of a sequence, (L,) of tokens."""
        return shape_of(self.train_inputs)

    @cached_property
    def content_hash(self) -> str:
        """A hex digest of samples, labels, owners and class names: equal content, equal hash, whatever the name or place."""
        digest = hashlib.blake2b(repr(tuple(map(str, self.classes))).encode(), digest_size=16)
        digest.update(repr(self.features).encode() if self.features else b"")
        groups = () if self.groups is None else (self.groups,)
        for inputs in (self.train_inputs, self.train_labels, self.test_inputs, self.test_labels, *groups):
            hash_rows(digest, inputs)
        return digest.hexdigest()

    @cached_property
    def moments(self) -> Moments:
        """Mean and standard deviation over the training samples of all clients: (C,) of images in 0..1, (F,) of features."""
        return self.kind.measure(self.train_inputs, torch.arange(count(self.train_inputs)))


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
    """The source with all its images in ``"grey"`` or in ``"colour"``; with ``""`` as it is. InputError for no images."""
    if not channels:
        return source
    train, test = source.train_inputs, source.test_inputs
    if source.kind.name != "image" or isinstance(train, Mapping) or isinstance(test, Mapping):
        raise InputError(f"data.channels = {channels!r}: {source.name!r} holds no images but {source.kind.name}: leave it out")
    wanted = {"grey": 1, "colour": 3}[channels]
    if wanted == train.shape[1]:
        return source
    if train.dtype != torch.uint8 or train.shape[1] not in (1, 3):
        raise InputError(f"data.channels = {channels!r}: {source.name!r} has {train.shape[1]} channels of {train.dtype}")
    return replace(source, train_inputs=in_channels(train, wanted), test_inputs=in_channels(test, wanted))


def _check_labels(where: str, labels: Tensor, samples: int, classes: int, *, may_be_empty: bool) -> None:
    if labels.is_floating_point():
        cure = "regression is not what fedkd does: it takes one class number a sample"
        raise InputError(f"{where}: labels are real numbers ({labels.dtype}): {cure}")
    if labels.dim() == 2 and labels.shape[0] == samples and samples:
        raise InputError(f"{where}: labels are {tuple(labels.shape)}, several a sample: fedkd takes one class number a sample")
    if labels.dtype != torch.int64 or labels.shape != (samples,):
        raise InputError(f"{where}: labels must be int64 ({samples},), not {labels.dtype} {tuple(labels.shape)}")
    if not samples:
        if may_be_empty:
            return
        raise InputError(f"{where}: there are no samples")
    if labels.min() < -1 or labels.max() >= classes:
        bounds = f"labels run from {labels.min()} to {labels.max()}"
        raise InputError(f"{where}: {bounds}, must lie in 0..{classes - 1}, or be -1 where there is no label")
