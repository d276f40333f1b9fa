"""One data set that is dealt out to clients: every node could answer for all of them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, final

import torch
from torch import Tensor

from fedkd.base.errors import InputError, Notice
from fedkd.base.inputs import Inputs
from fedkd.data.cutting import cut_test, cut_tests, drawn_for_test, tested, unlabelled_rows
from fedkd.data.dealing import Partition
from fedkd.data.federation import Federation
from fedkd.data.holding import Holding
from fedkd.data.kinds import NO_MOMENTS, Moments
from fedkd.data.samples import Samples
from fedkd.data.shares import Shares
from fedkd.data.source import Source

V = TypeVar("V")
#: Of so many clients what they hold stays at hand; of others it is looked up again.
REMEMBERED = 4096


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class DealtOut(Federation):
    """A pure function of the source, the arguments of build_federation and the seed.

    The partition is drawn once, at the first question about a client; clients hold row numbers, never copies.
    A sample's id is its row in the source's training samples (in the test samples, for ``test``).
    """

    pool: Tensor  # (P,) rows of the training samples that are dealt out to clients
    partition: Partition
    shared: bool  # every client holds the whole pool
    test_share: float
    labelled_share: float
    test_limit: int = 0  # 0 = all

    @cached_property
    def test(self) -> Samples:
        """The labelled samples of the global test set, or ``test_limit`` of them."""
        source, rows = self.source, drawn_for_test(self.source, self.test_limit, seed=self.seed)
        moments = self.moments_for(source.test_inputs, rows)
        return Samples(source.test_inputs, source.test_labels, rows, source.kind, moments, len(source.classes))

    @cached_property
    def train(self) -> Samples:
        """The training samples of all clients together, each once: for probes and centralised training."""
        rows = torch.unique(self._splits[0].rows)
        return view(self.source, rows, self._usable_labels, self.moments_for(self.source.train_inputs, rows))

    @property
    def examples(self) -> Samples:
        """Those to be dealt out."""
        moments = self.moments_for(self.source.train_inputs, self.pool)
        return view(self.source, self.pool, self.source.train_labels, moments)

    def client_train(self, client: int) -> Samples:
        """What a client trains on; labels that may not be used are -1."""
        owner = 0 if self.shared else client
        if owner not in self._training:
            train, _ = self._cut(owner)
            keep(self._training, owner, view(self.source, train, self._usable_labels, self.client_moments(owner)))
        return self._training[owner]

    @cached_property
    def _training(self) -> dict[int, Samples]:
        """What clients train on, of those who asked last: they ask in every round. Under ``shared`` one view is everybody's."""
        return {}

    def client_test(self, client: int) -> Samples:
        """A client's own test samples, drawn from its own partition. Under ``shared`` they are the same for all."""
        _, test = self._cut(client)
        return view(self.source, test, self.source.train_labels, self.client_moments(client))

    def client_moments(self, client: int) -> Moments:
        """What a client normalises by whatever it sees, its own samples and others."""
        if self.normalise != "client":
            return self.moments_for(self.source.train_inputs, self.pool)
        owner = 0 if self.shared else client
        if owner not in self._measured:
            self._measured[owner] = self.source.kind.measure(self.source.train_inputs, self._cut(owner)[0])
        return self._measured[owner]

    @property
    def all_client_moments(self) -> Sequence[Moments]:
        """Measured, under ``client``."""
        return [self.client_moments(client) for client in range(self.clients)] if self.normalise == "client" else []

    @cached_property
    def _measured(self) -> dict[int, Moments]:
        return {}

    def moments_for(self, inputs: Inputs, rows: Tensor) -> Moments:
        """Under ``client`` their own moments."""
        return moments_of(self.source, self.normalise, inputs, rows)

    @cached_property
    def holdings(self) -> Sequence[Holding]:
        """Counted."""
        whole = self.test_share == 0 and self.labelled_share == 1
        train = self._rows if whole else self._splits[0]  # a cut that leaves all where they are need not be made
        counts = train.count(self._usable_labels[train.rows] + 1, len(self.source.classes) + 1)[:, 1:].tolist()
        return [
            Holding(train=size, labelled=sum(of_class), test=held, train_classes=tuple(of_class))
            for size, held, of_class in zip(self.train_sizes, self._test_sizes, counts * self._owned, strict=True)
        ]

    @cached_property
    def train_sizes(self) -> Sequence[int]:
        """Counted."""
        return [size - held for size, held in zip(self._rows.sizes.tolist() * self._owned, self._test_sizes, strict=True)]

    @cached_property
    def _test_sizes(self) -> Sequence[int]:
        """Counted."""
        labelled = (self._rows.sizes - self._counts[:, 0]).tolist()
        return [tested(number, self.test_share) for number in labelled] * self._owned

    @property
    def _owned(self) -> int:
        """How many clients hold each share."""
        return self.clients if self.shared else 1

    @cached_property
    def partition_hash(self) -> str:
        """Of all row numbers."""
        digest, (train, test) = hashlib.blake2b(digest_size=16), self._splits
        for both in zip([*train.contents()] * self._owned, [*test.contents()] * self._owned, strict=True):
            for size, content in both:
                digest.update(repr(size).encode())
                digest.update(content)
        return digest.hexdigest()

    def partition_table(self) -> Tensor:
        """How many samples of each class a client holds, train and test together. Shape (clients, classes)."""
        return self._counts[:, 1:].expand(self.clients, -1)

    @property
    def unlabelled(self) -> Tensor:
        """How many samples without a label a client holds. Shape (clients,)."""
        return self._counts[:, 0].expand(self.clients)

    @cached_property
    def unheld(self) -> int:
        """How many of the samples to be dealt out the partition leaves with nobody."""
        return len(self.pool) - len(self._rows.rows)

    @cached_property
    def _counts(self) -> Tensor:
        """Samples without a label and of each class, by client (under ``shared`` of everybody)."""
        return self._rows.count(self.source.train_labels[self._rows.rows] + 1, len(self.source.classes) + 1)

    @cached_property
    def facts(self) -> dict[str, str]:
        """Content, classes, public set."""
        return {"content_hash": self.source.content_hash, "label_space": self.label_space, "public_set": self.public_hash}

    @cached_property
    def _rows(self) -> Shares:
        """Each client's rows of the training samples; under ``shared`` one entry, which is everybody's."""
        source = self.source
        groups = None if source.groups is None else source.groups[self.pool]
        parts = Shares.of(self.partition(source.train_labels[self.pool], groups))
        if not self.shared:
            _check_parts(parts, self.clients, len(self.pool))
        if left := len(self.pool) - len(parts.rows):
            warnings.warn(f"data.partition leaves {left} of {len(self.pool)} samples with no client", Notice, stacklevel=2)
        return Shares(self.pool[parts.rows], parts.sizes)

    def _cut(self, client: int) -> tuple[Tensor, Tensor]:
        """A client's train and test rows; under ``shared`` one cut, lest one client trains on another's test."""
        owner = 0 if self.shared else client
        if owner not in self._cuts:
            rows, labels = self._rows[owner], self.source.train_labels
            keep(self._cuts, owner, cut_test(labels, rows, self.test_share, seed=self.seed, client=owner))
        return self._cuts[owner]

    @cached_property
    def _cuts(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}

    @cached_property
    def _splits(self) -> tuple[Shares, Shares]:
        """The same of all clients at once, for those who ask about all."""
        return cut_tests(self.source.train_labels, self._rows, self.test_share, seed=self.seed)

    @cached_property
    def _usable_labels(self) -> Tensor:
        """Labels (N,) of the training samples, -1 for the share of each client's train samples that is unlabelled."""
        if self.labelled_share == 1:
            return self.source.train_labels
        labels = self.source.train_labels.clone()
        train, _ = self._splits
        for client in range(len(train)):
            labels[unlabelled_rows(labels, train[client], self.labelled_share, seed=self.seed, client=client)] = -1
        return labels


def moments_of(source: Source, normalise: str, inputs: Inputs, rows: Tensor) -> Moments:
    """What samples that are no client's own are normalised by: under ``client``, by their own moments."""
    if normalise == "none":
        return NO_MOMENTS
    return source.moments if normalise == "global" else source.kind.measure(inputs, rows)


def view(source: Source, rows: Tensor, labels: Tensor | None, moments: Moments) -> Samples:
    """The training samples in these rows, with labels (N,) for the whole set, or none that may be used."""
    known = torch.full_like(source.train_labels, -1) if labels is None else labels
    return Samples(source.train_inputs, known, rows, source.kind, moments, len(source.classes))


def keep(cache: dict[int, V], client: int, value: V) -> None:
    """Put it into a cache, from which the oldest entry goes when it is full."""
    if len(cache) >= REMEMBERED:
        del cache[next(iter(cache))]
    cache[client] = value


def _check_parts(parts: Shares, clients: int, samples: int) -> None:
    """A partitioner must give each client something, and nothing to two."""
    if len(parts) != clients:
        raise InputError(f"data.partition makes {len(parts)} parts: set data.clients = {len(parts)}, not {clients}")
    sizes = parts.sizes.tolist()
    if 0 in sizes:
        raise InputError(
            f"data.partition leaves client {sizes.index(0)} of {clients} without any of the {samples} samples: "
            "take fewer clients, or (for dirichlet) raise alpha or min_partition_size"
        )
    if len(torch.unique(parts.rows)) != len(parts.rows):
        raise InputError("data.partition gives some samples to two clients: change its arguments, e.g. raise alpha")
