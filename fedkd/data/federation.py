"""A federation: who holds which samples of a source, and what is set apart as public, validation and test set."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedkd.base.errors import InputError, Notice
from fedkd.base.inputs import Inputs, count
from fedkd.base.randomness import generator
from fedkd.data.dealing import Partition
from fedkd.data.kinds import NO_MOMENTS, Moments
from fedkd.data.rows import hash_values
from fedkd.data.samples import Samples
from fedkd.data.source import Source


@dataclass(frozen=True, eq=False)
class Federation:
    """Who holds what: a pure function of the source, the arguments of build_federation and the seed.

    The partition is drawn once, at the first question about a client; clients hold row numbers, never copies.
    A sample's id is its row in the source's training samples (in the test samples, for ``test``).
    """

    source: Source
    clients: int
    public: Samples | None
    validation: Samples | None  # labelled, for the server
    pool: Tensor  # (P,) rows of the training samples that are dealt out to clients
    partition: Partition
    shared: bool  # every client holds the whole pool
    test_share: float
    labelled_share: float
    seed: int
    test_limit: int = 0  # 0 = all
    normalise: str = "global"
    """By what inputs are normalised: all clients' training samples (``global``), those of whoever sees them (``client``), or
    nothing (``none``)."""
    public_content: str = ""  # the content hash of the other data set that the public samples are of

    @cached_property
    def test(self) -> Samples:
        """The labelled samples of the global test set, or ``test_limit`` of them."""
        source = self.source
        shuffled = torch.randperm(count(source.test_inputs), generator=generator(self.seed, "test limit"))
        labelled = shuffled[source.test_labels[shuffled] >= 0]
        rows = labelled[: self.test_limit or None].sort().values
        moments = moments_of(source, self.normalise, source.test_inputs, rows)
        return Samples(source.test_inputs, source.test_labels, rows, source.kind, moments, len(source.classes))

    @cached_property
    def train(self) -> Samples:
        """The training samples of all clients together, each once: for probes and centralised training."""
        rows = torch.unique(torch.cat([train for train, _ in self._splits]))
        return view(
            self.source, rows, self._usable_labels, moments_of(self.source, self.normalise, self.source.train_inputs, rows)
        )

    def client_train(self, client: int) -> Samples:
        """What a client trains on; labels that may not be used are -1."""
        if client not in self._training:
            train, _ = self._splits[0 if self.shared else client]
            self._training[client] = view(self.source, train, self._usable_labels, self.client_moments(client))
        return self._training[client]

    @cached_property
    def _training(self) -> dict[int, Samples]:
        """What clients train on, as far as they have asked: they ask in every round."""
        return {}

    def client_test(self, client: int) -> Samples:
        """A client's own test samples, drawn from its own partition. Under ``shared`` they are the same for all."""
        _, test = self._splits[0 if self.shared else client]
        return view(self.source, test, self.source.train_labels, self.client_moments(client))

    def client_moments(self, client: int) -> Moments:
        """What a client normalises by whatever it sees, its own samples and others."""
        if self.normalise != "client":
            return moments_of(self.source, self.normalise, self.source.train_inputs, self.pool)
        owner = 0 if self.shared else client
        if owner not in self._measured:
            self._measured[owner] = self.source.kind.measure(self.source.train_inputs, self._splits[owner][0])
        return self._measured[owner]

    @cached_property
    def _measured(self) -> dict[int, Moments]:
        return {}

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
        return len(self.pool) - sum(len(rows) for rows in self._rows)

    @cached_property
    def _counts(self) -> Tensor:
        """Samples without a label and of each class, by client (under ``shared`` of everybody)."""
        labels, columns = self.source.train_labels + 1, len(self.source.classes) + 1
        return torch.stack([torch.bincount(labels[rows], minlength=columns) for rows in self._rows])

    @cached_property
    def label_space(self) -> str:
        """A hex digest of the classes' names in their order: what a label means."""
        return hashlib.blake2b(
            "\n".join(map(str, self.source.classes)).encode("utf-8", "backslashreplace"), digest_size=8
        ).hexdigest()

    @cached_property
    def facts(self) -> dict[str, str]:
        """What must be equal wherever a part of this federation is worked on: the content, the classes, the public set."""
        return {"content_hash": self.source.content_hash, "label_space": self.label_space, "public_set": self.public_hash}

    @cached_property
    def public_hash(self) -> str:
        """A hex digest of the public samples by id, in whatever order a node holds them. Empty without a public set."""
        if self.public is None:
            return ""
        ids = self.public.indices.sort().values
        digest = hashlib.blake2b(ids.numpy().data, digest_size=16)
        hash_values(digest, self.public.inputs, ids)
        return digest.hexdigest()

    def public_order(self, seed: int, round: int) -> Tensor:
        """The ids of the public samples in a round's order, (P,) int64: the same at every node, so it need not be sent.

        It depends on the public samples, the seed and the round, and not on the order in which a node holds them.
        """
        if self.public is None:
            raise InputError("there is no public set: set data.public to the number of samples to hold out")
        order = torch.randperm(len(self.public), generator=generator(seed, "public order", self.public_hash, round))
        return self.public.indices.sort().values[order]

    @cached_property
    def _rows(self) -> list[Tensor]:
        """Each client's rows of the training samples; under ``shared`` one entry, which is everybody's."""
        source = self.source
        groups = None if source.groups is None else source.groups[self.pool]
        parts = self.partition(source.train_labels[self.pool], groups)
        if not self.shared:
            _check_parts(parts, self.clients, len(self.pool))
        if left := len(self.pool) - sum(map(len, parts)):
            warnings.warn(f"data.partition leaves {left} of {len(self.pool)} samples with no client", Notice, stacklevel=2)
        return [self.pool[part] for part in parts]

    @cached_property
    def _splits(self) -> list[tuple[Tensor, Tensor]]:
        """Each client's train and test rows; under ``shared`` one cut, lest one client trains on another's test."""
        return [self._cut(rows, client) for client, rows in enumerate(self._rows)]

    def _cut(self, rows: Tensor, client: int) -> tuple[Tensor, Tensor]:
        """Train and test rows, at least one of each where a share is asked for and two have labels: tests need them."""
        shuffled = rows[torch.randperm(len(rows), generator=generator(self.seed, "client test", client))]
        known = self.source.train_labels[shuffled] >= 0
        labelled, others = shuffled[known], shuffled[~known]
        held = max(min(max(round(len(labelled) * self.test_share), 1), len(labelled) - 1), 0) if self.test_share else 0
        return torch.cat([labelled[held:], others]), labelled[:held]

    @cached_property
    def _usable_labels(self) -> Tensor:
        """Labels (N,) of the training samples, -1 for the share of each client's train samples that is unlabelled."""
        if self.labelled_share == 1:
            return self.source.train_labels
        labels = self.source.train_labels.clone()
        for client, (train, _) in enumerate(self._splits):
            known = train[labels[train] >= 0]
            shuffled = known[torch.randperm(len(known), generator=generator(self.seed, "labelled", client))]
            labels[shuffled[round(len(known) * self.labelled_share) :]] = -1
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


def _check_parts(parts: list[Tensor], clients: int, samples: int) -> None:
    """A partitioner must give each client something, and nothing to two."""
    if len(parts) != clients:
        raise InputError(f"data.partition makes {len(parts)} parts: set data.clients = {len(parts)}, not {clients}")
    sizes = [len(part) for part in parts]
    if 0 in sizes:
        raise InputError(
            f"data.partition leaves client {sizes.index(0)} of {clients} without any of the {samples} samples: "
            "take fewer clients, or (for dirichlet) raise alpha or min_partition_size"
        )
    if len(torch.unique(torch.cat(parts))) != sum(sizes):
        raise InputError("data.partition gives some samples to two clients: change its arguments, e.g. raise alpha")
