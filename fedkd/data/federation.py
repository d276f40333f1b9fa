"""A federation: who holds which images of a source, and what is set apart as public, validation and test set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedkd.data.partition import Partition, make_partition
from fedkd.data.public import public_from
from fedkd.data.samples import Samples
from fedkd.data.source import Source
from fedkd.errors import InputError
from fedkd.randomness import generator


@dataclass(frozen=True, eq=False)
class Federation:
    """Who holds what: a pure function of the source, the arguments of build_federation and the seed.

    The partition is drawn once, at the first question about a client; clients hold row numbers, never copies.
    A sample's id is its row in the source's training images (in the test images, for ``test``).
    """

    source: Source
    clients: int
    public: Samples | None
    validation: Samples | None  # labelled, for the server
    pool: Tensor  # (P,) rows of the training images that are dealt out to clients
    partition: Partition
    shared: bool  # every client holds the whole pool
    test_share: float
    labelled_share: float
    seed: int
    test_limit: int = 0  # 0 = all

    @cached_property
    def test(self) -> Samples:
        """The global test set, or ``test_limit`` images of it."""
        source = self.source
        shuffled = torch.randperm(len(source.test_images), generator=generator(self.seed, "test limit"))
        rows = shuffled[: self.test_limit or None].sort().values
        return Samples(source.test_images, source.test_labels, rows, source.mean, source.std, len(source.classes))

    @cached_property
    def train(self) -> Samples:
        """The training samples of all clients together, each once: for probes and centralised training."""
        rows = torch.cat([train for train, _ in self._splits])
        return view(self.source, torch.unique(rows), self._usable_labels)

    def client_train(self, client: int) -> Samples:
        """What a client trains on; labels that may not be used are -1."""
        train, _ = self._splits[0 if self.shared else client]
        return view(self.source, train, self._usable_labels)

    def client_test(self, client: int) -> Samples:
        """A client's own test samples, drawn from its own partition. Under ``shared`` they are the same for all."""
        _, test = self._splits[0 if self.shared else client]
        return view(self.source, test, self.source.train_labels)

    def partition_table(self) -> Tensor:
        """How many samples of each class a client holds, train and test together. Shape (clients, classes)."""
        labels, classes = self.source.train_labels, len(self.source.classes)
        counts = torch.stack([torch.bincount(labels[rows], minlength=classes) for rows in self._rows])
        return counts.expand(self.clients, classes)

    @cached_property
    def label_space(self) -> str:
        """A hex digest of the classes' names in their order: what a label means."""
        return hashlib.blake2b("\n".join(map(str, self.source.classes)).encode(), digest_size=8).hexdigest()

    @cached_property
    def facts(self) -> dict[str, str]:
        """What must be equal wherever a part of this federation is worked on: the content, the classes, the public set."""
        return {"content_hash": self.source.content_hash, "label_space": self.label_space, "public_set": self.public_hash}

    @cached_property
    def public_hash(self) -> str:
        """A hex digest of the public images by id, in whatever order a node holds them. Empty without a public set."""
        if self.public is None:
            return ""
        ids = self.public.indices.sort().values
        digest = hashlib.blake2b(ids.numpy().data, digest_size=16)
        digest.update(self.public.images[ids].contiguous().numpy().data)
        return digest.hexdigest()

    def public_order(self, seed: int, round: int) -> Tensor:
        """The ids of the public samples in a round's order, (P,) int64: the same at every node, so it need not be sent.

        It depends on the public images, the seed and the round, and not on the order in which a node holds them.
        """
        if self.public is None:
            raise InputError("there is no public set: set data.public to the number of images to hold out")
        order = torch.randperm(len(self.public), generator=generator(seed, "public order", self.public_hash, round))
        return self.public.indices.sort().values[order]

    @cached_property
    def _rows(self) -> list[Tensor]:
        """Each client's rows of the training images; under ``shared`` one entry, which is everybody's."""
        source = self.source
        groups = None if source.groups is None else source.groups[self.pool]
        parts = self.partition(source.train_labels[self.pool], groups)
        if not self.shared:
            _check_parts(parts, self.clients, len(self.pool))
        return [self.pool[part] for part in parts]

    @cached_property
    def _splits(self) -> list[tuple[Tensor, Tensor]]:
        """Each client's train and test rows; under ``shared`` one cut, lest one client trains on another's test."""
        return [self._cut(rows, client) for client, rows in enumerate(self._rows)]

    def _cut(self, rows: Tensor, client: int) -> tuple[Tensor, Tensor]:
        """Train and test rows, at least one of each where a share is asked for and there are two rows."""
        held = min(max(round(len(rows) * self.test_share), 1), len(rows) - 1) if self.test_share else 0
        shuffled = rows[torch.randperm(len(rows), generator=generator(self.seed, "client test", client))]
        return shuffled[held:], shuffled[:held]

    @cached_property
    def _usable_labels(self) -> Tensor:
        """Labels (N,) of the training images, -1 for the share of each client's train samples that is unlabelled."""
        if self.labelled_share == 1:
            return self.source.train_labels
        labels = self.source.train_labels.clone()
        for client, (train, _) in enumerate(self._splits):
            shuffled = train[torch.randperm(len(train), generator=generator(self.seed, "labelled", client))]
            labels[shuffled[round(len(train) * self.labelled_share) :]] = -1
        return labels


def build_federation(
    source: Source,
    *,
    clients: int,
    partition: str,
    arguments: Mapping[str, Any],
    client_test: float,
    public: int,
    public_labels: bool,
    public_source: Source | None,
    validation: int,
    labelled: float,
    train_limit: int,
    seed: int,
    test_limit: int = 0,
) -> Federation:
    """Set public and validation images apart and get ready to deal out the rest.

    The training images are shuffled by the seed and cut to ``train_limit`` (0 = all); then the public images (unless
    they come from ``public_source``), then the validation images are taken; clients share the rest. So none overlap.

    Args:
        source: the images.
        clients: how many clients.
        partition: a name for make_partition, with its ``arguments``.
        arguments: the partition's own arguments.
        client_test: share of each client's samples that it keeps for its own test, 0 <= share < 1.
        public: how many public images.
        public_labels: whether their labels may be used.
        public_source: another data set to take them from.
        validation: how many labelled images for the server.
        labelled: share of each client's train samples whose labels may be used, 0..1.
        train_limit: how many training images to use at all.
        seed: the run's.
        test_limit: how many images of the global test set to use, 0 = all.

    Raises:
        InputError: at once for names, arguments and sizes; at the first question about a client if the draw fails.
    """
    _check_shares(client_test, labelled)
    _check_counts(clients=clients, public=public, validation=validation, train_limit=train_limit, test_limit=test_limit)
    rows = torch.randperm(len(source.train_images), generator=generator(seed, "train limit"))[: train_limit or None]
    cut = 0 if public_source else public
    held_rows, validation_rows, pool = rows[:cut], rows[cut : cut + validation], rows[cut + validation :]
    _check_pool(pool, clients, public=cut, validation=validation, shared=partition == "shared")
    public_set = view(source, held_rows, source.train_labels if public_labels else None) if cut else None
    if public_source:
        public_set = public_from(public_source, source, count=public, labels=public_labels, seed=seed)
    return Federation(
        source=source,
        clients=clients,
        public=public_set,
        validation=view(source, validation_rows, source.train_labels) if validation else None,
        pool=pool,
        partition=make_partition(partition, arguments, clients=clients, seed=seed),
        shared=partition == "shared",
        test_share=client_test,
        labelled_share=labelled,
        seed=seed,
        test_limit=test_limit,
    )


def view(source: Source, rows: Tensor, labels: Tensor | None) -> Samples:
    """The training images in these rows, with labels (N,) for the whole set, or none that may be used."""
    known = torch.full_like(source.train_labels, -1) if labels is None else labels
    return Samples(source.train_images, known, rows, source.mean, source.std, len(source.classes))


def _check_shares(client_test: float, labelled: float) -> None:
    if not 0 <= client_test < 1:
        raise InputError(f"data.client_test = {client_test}: must be at least 0 and below 1")
    if not 0 <= labelled <= 1:
        raise InputError(f"data.labelled = {labelled}: must lie in 0..1")


def _check_counts(clients: int, **counts: int) -> None:
    if clients < 1:
        raise InputError(f"data.clients = {clients}: must be at least 1")
    for name, count in counts.items():
        if count < 0:
            raise InputError(f"data.{name} = {count}: must not be negative")


def _check_pool(pool: Tensor, clients: int, *, public: int, validation: int, shared: bool) -> None:
    """There must be something left to deal out, and an image for each client."""
    if not len(pool):
        raise InputError(
            f"data.public = {public} and data.validation = {validation} leave no training image to the clients: "
            "lower them, or raise data.train_limit if it is set"
        )
    if clients > len(pool) and not shared:
        raise InputError(f"data.clients = {clients}, but there are only {len(pool)} training images to deal out")


def _check_parts(parts: list[Tensor], clients: int, images: int) -> None:
    """A partitioner must give each client something, and nothing to two."""
    if len(parts) != clients:
        raise InputError(f"data.partition makes {len(parts)} parts: set data.clients = {len(parts)}, not {clients}")
    sizes = [len(part) for part in parts]
    if 0 in sizes:
        raise InputError(
            f"data.partition leaves client {sizes.index(0)} of {clients} without any of the {images} images: "
            "take fewer clients, or (for dirichlet) raise alpha or min_partition_size"
        )
    if len(torch.unique(torch.cat(parts))) != sum(sizes):
        raise InputError("data.partition gives some images to two clients: change its arguments, e.g. raise alpha")
