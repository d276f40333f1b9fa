"""Each client its own data, as the server sees it: its own samples, if it has any, and what the clients told."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn, final

import torch
from torch import Tensor

from fedkd.base.inputs import Inputs
from fedkd.data.cutting import drawn_for_test
from fedkd.data.holding import Holding
from fedkd.data.kinds import Moments
from fedkd.data.own.own_federation import OwnFederation
from fedkd.data.own.told import Counts, Told
from fedkd.data.samples import Samples


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class OwnAtServer(OwnFederation):
    """What the server knows. The test split of ``source`` is the global test set, which may be empty.

    Its training samples are the server's own, for validation and probes; where it has none, one blank sample without a label
    stands for the form of the clients' samples.
    """

    told: tuple[Told, ...]  # by client id
    test_limit: int = 0  # 0 = all

    @cached_property
    def test(self) -> Samples:
        """The labelled samples of the server's test split, or ``test_limit`` of them."""
        rows = drawn_for_test(self.source, self.test_limit, seed=self.seed)
        return self._view(self.source.test_inputs, self.source.test_labels, rows)

    @cached_property
    def train(self) -> Samples:
        """The server's own labelled samples, else the public ones if they have labels; there may be none."""
        own = self.training((self.source.train_labels >= 0).nonzero().flatten())
        return own if len(own) or self.public is None else self.public.labelled()

    @cached_property
    def examples(self) -> Samples:
        """The test or public samples, or a blank one."""
        held = self.training(torch.arange(len(self.source.train_labels)))
        return next(samples for samples in (self.test, self.public, held) if samples)

    def training(self, rows: Tensor) -> Samples:
        """The server's own training samples in these rows."""
        return self._view(self.source.train_inputs, self.source.train_labels, rows)

    def client_train(self, client: int) -> Samples:
        """LookupError: they lie elsewhere."""
        self._refuse(client)

    def client_test(self, client: int) -> Samples:
        """LookupError: they lie elsewhere."""
        self._refuse(client)

    def client_moments(self, client: int) -> Moments:
        """Those that all agreed on; under ``client`` a LookupError."""
        if self.normalise == "client":
            self._refuse(client)
        return self.agreement.moments

    @cached_property
    def holdings(self) -> Sequence[Holding]:
        """As they were told."""
        return [counts.holding for counts in self._counts]

    def partition_table(self) -> Tensor:
        """As it was told; (0, classes) where it was not."""
        return torch.tensor([counts.counts for counts in self._counts], dtype=torch.int64).view(-1, len(self.source.classes))

    @property
    def unlabelled(self) -> Tensor:
        """As it was told."""
        return torch.tensor([counts.unlabelled for counts in self._counts], dtype=torch.int64)

    @cached_property
    def partition_hash(self) -> str:
        """Of the contents that the clients told."""
        told = [counts.content for counts in self._counts]
        return hashlib.blake2b(repr(told).encode(), digest_size=16).hexdigest() if told else ""

    @cached_property
    def _counts(self) -> list[Counts]:
        return [each.counts for each in self.told if each.counts is not None]

    def _view(self, inputs: Inputs, labels: Tensor, rows: Tensor) -> Samples:
        return Samples(inputs, labels, rows, self.source.kind, self.moments_for(inputs, rows), len(self.source.classes))

    def _refuse(self, client: int) -> NoReturn:
        raise LookupError(f"the samples of client {client} are its own, at its node: the server does not have them")
