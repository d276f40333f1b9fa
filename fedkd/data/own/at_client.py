"""A client's own data, at its node: the whole source is its client's, and what others hold is not known here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn, Self, final

import torch
from torch import Tensor

from fedkd.base.inputs import Inputs, count
from fedkd.data.cutting import cut_test, tested, unlabelled_rows
from fedkd.data.holding import Holding
from fedkd.data.kinds import NO_MOMENTS, Moments
from fedkd.data.kinds.kind import Spread
from fedkd.data.own.agreement import Agreement
from fedkd.data.own.form import Form
from fedkd.data.own.own_federation import OwnFederation
from fedkd.data.own.told import Counts, Told
from fedkd.data.samples import Samples


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class OwnAtClient(OwnFederation):
    """What one client knows. ``source`` is its own, its labels counted in the classes that all agreed on.

    Its test split is the client's own test; where it has none, ``test_share`` of its labelled samples are cut off, by the seed
    and the client's id. A sample's id is its row in the source.
    """

    client: int
    test_share: float
    labelled_share: float
    sent_test: Samples | None = None  # the server's test set, where it was sent here to be scored on

    @property
    def test(self) -> Samples:
        """The server's, where it was sent."""
        if self.sent_test is None:
            raise LookupError("the global test set is the server's: a client scores on it only where it is sent")
        return self.sent_test

    def tested_on(self, inputs: Inputs, labels: Tensor) -> Self:
        """The same, with the server's test set: samples (M, ...) and labels (M,)."""
        rows = torch.arange(len(labels))
        test = Samples(inputs, labels, rows, self.source.kind, self.moments_for(inputs, rows), len(self.source.classes))
        return replace(self, sent_test=test)

    def agreeing(self, agreement: Agreement) -> Self:
        """The same data, once it is known what all agreed on."""
        source = replace(self.source, vocabulary=agreement.vocabulary) if agreement.vocabulary else self.source
        agreed = replace(self, source=source, agreement=agreement, public=None)
        if self.public is None:
            return agreed
        moments = agreed.moments_for(self.public.inputs, self.public.indices)
        return replace(agreed, public=replace(self.public, moments=moments))

    @property
    def train(self) -> Samples:
        """The client's own."""
        return self.client_train(self.client)

    @property
    def examples(self) -> Samples:
        """The client's own."""
        return self.client_train(self.client)

    def client_train(self, client: int) -> Samples:
        """The client's own; LookupError for another's."""
        if client != self.client:
            self._refuse(f"the samples of client {client}")
        return self._train

    def client_test(self, client: int) -> Samples:
        """The client's own; LookupError for another's."""
        if client != self.client:
            self._refuse(f"the test samples of client {client}")
        source, (_, test) = self.source, self._split
        if not len(source.test_labels):
            return self._view(source.train_inputs, source.train_labels, test)
        return self._view(source.test_inputs, source.test_labels, (source.test_labels >= 0).nonzero().flatten())

    def client_moments(self, client: int) -> Moments:
        """The client's own, or those that all agreed on."""
        if client != self.client:
            self._refuse(f"the moments of client {client}")
        return self._moments

    @property
    def holdings(self) -> Sequence[Holding]:
        """Not known here."""
        return ()

    def partition_table(self) -> Tensor:
        """LookupError: not known here."""
        self._refuse("what each client holds")

    @property
    def unlabelled(self) -> Tensor:
        """LookupError: not known here."""
        self._refuse("what each client holds")

    @property
    def partition_hash(self) -> str:
        """LookupError: not known here."""
        self._refuse("what each client holds")

    @property
    def most_labelled(self) -> int:
        """As all agreed on."""
        return self.agreement.most_labelled

    def told(self, *, counted: bool) -> Told:
        """What the node says when it joins; of its samples more than their form only if they are ``counted``."""
        return Told(Form.of(self.source), self.source.vocabulary if counted else 0, self._counts if counted else None)

    @property
    def _counts(self) -> Counts:
        source, labels = self.source, self.source.train_labels
        known = int((labels >= 0).sum())
        cut = 0 if len(source.test_labels) else tested(known, self.test_share)
        everything = torch.cat([labels, source.test_labels]) + 1
        counts = torch.bincount(everything, minlength=len(source.classes) + 1).tolist()
        spread = self._spread if self.normalise == "global" else Spread(0, *NO_MOMENTS)
        return Counts(
            train=len(labels) - cut,
            labelled=round((known - cut) * self.labelled_share),
            test=int((source.test_labels >= 0).sum()) if len(source.test_labels) else cut,
            unlabelled=counts[0],
            counts=tuple(counts[1:]),
            rows=spread.rows,
            mean=tuple(spread.mean.tolist()),
            variance=tuple(spread.variance.tolist()) if len(spread.mean) else (),
            content=source.content_hash,
        )

    @property
    def _spread(self) -> Spread:
        """Of the training samples, those cut off for tests too: as of one data set that is dealt out."""
        inputs = self.source.train_inputs
        return self.source.kind.spread(inputs, torch.arange(count(inputs)))

    @cached_property
    def _split(self) -> tuple[Tensor, Tensor]:
        source = self.source
        share = 0.0 if len(source.test_labels) else self.test_share
        return cut_test(source.train_labels, torch.arange(len(source.train_labels)), share, seed=self.seed, client=self.client)

    @cached_property
    def _train(self) -> Samples:
        rows, labels = self._split[0], self.source.train_labels
        if self.labelled_share < 1:
            labels = labels.clone()
            labels[unlabelled_rows(labels, rows, self.labelled_share, seed=self.seed, client=self.client)] = -1
        return self._view(self.source.train_inputs, labels, rows)

    @cached_property
    def _moments(self) -> Moments:
        if self.normalise != "client":
            return self.agreement.moments
        return self.source.kind.measure(self.source.train_inputs, self._split[0])

    def _view(self, inputs: Inputs, labels: Tensor, rows: Tensor) -> Samples:
        return Samples(inputs, labels, rows, self.source.kind, self._moments, len(self.source.classes))

    def _refuse(self, what: str) -> NoReturn:
        raise LookupError(f"client {self.client} has its own samples only, and does not know {what}")
