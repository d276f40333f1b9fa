"""A federation: who holds which samples of a source, and what is set apart as public, validation and test set."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.inputs import Inputs
from fedkd.base.randomness import generator
from fedkd.data.holding import Holding
from fedkd.data.kinds import Moments
from fedkd.data.rows import hash_values
from fedkd.data.samples import Samples
from fedkd.data.source import Source


@dataclass(frozen=True, eq=False, kw_only=True)
class Federation(ABC):
    """Who holds what, as the node sees it that asks.

    Where one data set is dealt out (``DealtOut``) every node could answer for all. Where each client has its own, it knows
    these samples (``OwnAtClient``), and the server what it was told when the clients joined (``OwnAtServer``).
    """

    source: Source  # this node's own, or everybody's
    clients: int
    public: Samples | None
    validation: Samples | None  # labelled, for the server
    seed: int
    normalise: str = "global"
    """By what inputs are normalised: all clients' training samples (``global``), those of whoever sees them (``client``), or
    nothing (``none``)."""
    public_content: str = ""  # the content hash of the other data set that the public samples are of

    @property
    @abstractmethod
    def test(self) -> Samples:
        """The labelled samples of the global test set; empty where there is none."""

    @property
    @abstractmethod
    def train(self) -> Samples:
        """All training samples that this node may see, each once: for probes and centralised training."""

    @property
    @abstractmethod
    def examples(self) -> Samples:
        """Some samples as nets will see them, at least one: for what is tried out before round 1."""

    @abstractmethod
    def client_train(self, client: int) -> Samples:
        """What a client trains on; labels that may not be used are -1. LookupError where its samples lie elsewhere."""

    @abstractmethod
    def client_test(self, client: int) -> Samples:
        """A client's own test samples, likewise."""

    @abstractmethod
    def client_moments(self, client: int) -> Moments:
        """What a client normalises by whatever it sees, its own samples and others."""

    @property
    @abstractmethod
    def all_client_moments(self) -> Sequence[Moments]:
        """Those of all clients where each has its own and they are known here; else none."""

    @abstractmethod
    def moments_for(self, inputs: Inputs, rows: Tensor) -> Moments:
        """What samples that are no client's own are normalised by."""

    @property
    @abstractmethod
    def holdings(self) -> Sequence[Holding]:
        """What each client holds, in numbers; empty where that is not known here."""

    @property
    def train_sizes(self) -> Sequence[int]:
        """How many samples each client trains on; empty where that is not known here."""
        return [holding.train for holding in self.holdings]

    @abstractmethod
    def partition_table(self) -> Tensor:
        """How many samples of each class a client holds, train and test together. Shape (clients, classes)."""

    @property
    @abstractmethod
    def unlabelled(self) -> Tensor:
        """How many samples without a label a client holds. Shape (clients,)."""

    @property
    @abstractmethod
    def partition_hash(self) -> str:
        """A hex digest of who holds which sample."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, str]:
        """What must be equal wherever a part of this federation is worked on, by name."""

    @property
    def unheld(self) -> int:
        """How many of the samples to be dealt out are left with nobody."""
        return 0

    @property
    def most_labelled(self) -> int:
        """How many labelled training samples the client has that has the most."""
        return max(holding.labelled for holding in self.holdings)

    @cached_property
    def label_space(self) -> str:
        """A hex digest of the classes' names in their order: what a label means."""
        return hashlib.blake2b(
            "\n".join(map(str, self.source.classes)).encode("utf-8", "backslashreplace"), digest_size=8
        ).hexdigest()

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
