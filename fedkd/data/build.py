"""Making a federation: public and validation samples are set apart, the rest is dealt out to clients."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedkd.base.errors import InputError, Notice
from fedkd.base.inputs import count
from fedkd.base.randomness import generator
from fedkd.data.dealt_out import DealtOut, moments_of, view
from fedkd.data.partition import make_partition
from fedkd.data.public import public_from
from fedkd.data.samples import Samples
from fedkd.data.source import Source


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
    normalise: str = "global",
) -> DealtOut:
    """Set public and validation samples apart and get ready to deal out the rest.

    The training samples are shuffled by the seed and cut to ``train_limit`` (0 = all); then the public samples (unless
    they come from ``public_source``), then the validation samples are taken; clients share the rest. So none overlap.
    Samples without a label are dealt out with the others; the validation set and all tests are drawn from the labelled.

    Args:
        source: the samples.
        clients: how many clients.
        partition: a name for make_partition, with its ``arguments``.
        arguments: the partition's own arguments.
        client_test: share of each client's samples that it keeps for its own test, 0 <= share < 1.
        public: how many public samples.
        public_labels: whether their labels may be used.
        public_source: another data set to take them from.
        validation: how many labelled samples for the server.
        labelled: share of each client's train samples whose labels may be used, 0..1.
        train_limit: how many training samples to use at all.
        seed: of all draws here.
        test_limit: how many samples of the global test set to use, 0 = all.
        normalise: by whose moments inputs are normalised: "global", "client" or "none".

    Raises:
        InputError: at once for names, arguments and sizes; at the first question about a client if the draw fails.
    """
    _check_shares(client_test, labelled)
    _check_counts(clients=clients, public=public, validation=validation, train_limit=train_limit, test_limit=test_limit)
    _check_labels(source)
    _tell_of_owners(source, partition)
    rows = torch.randperm(count(source.train_inputs), generator=generator(seed, "train limit"))[: train_limit or None]
    cut = 0 if public_source else public
    held_rows, rest = rows[:cut], rows[cut:]
    validation_rows = rest[source.train_labels[rest] >= 0][:validation]
    pool = rest[~torch.isin(rest, validation_rows)]
    _check_pool(pool, clients, public=cut, validation=validation, shared=partition == "shared")
    if len(validation_rows) < validation:
        raise InputError(f"data.validation = {validation}, but only {len(validation_rows)} labelled samples are left for it")
    public_set = _set_apart(source, held_rows, source.train_labels if public_labels else None, normalise)
    if public_source:
        public_set = public_from(public_source, source, count=public, labels=public_labels, seed=seed, normalise=normalise)
    return DealtOut(
        source=source,
        clients=clients,
        public=public_set,
        validation=_set_apart(source, validation_rows, source.train_labels, normalise),
        pool=pool,
        partition=make_partition(partition, arguments, clients=clients, seed=seed),
        shared=partition == "shared",
        test_share=client_test,
        labelled_share=labelled,
        seed=seed,
        test_limit=test_limit,
        normalise=normalise,
        public_content=public_source.content_hash if public_source else "",
    )


def _set_apart(source: Source, rows: Tensor, labels: Tensor | None, normalise: str) -> Samples | None:
    """The training samples in these rows; None of none."""
    return view(source, rows, labels, moments_of(source, normalise, source.train_inputs, rows)) if len(rows) else None


def _check_shares(client_test: float, labelled: float) -> None:
    if not 0 <= client_test < 1:
        raise InputError(f"data.client_test = {client_test}: must be at least 0 and below 1")
    if not 0 <= labelled <= 1:
        raise InputError(f"data.labelled = {labelled}: must lie in 0..1")


def _check_counts(clients: int, **counts: int) -> None:
    if clients < 1:
        raise InputError(f"data.clients = {clients}: must be at least 1")
    for name, number in counts.items():
        if number < 0:
            raise InputError(f"data.{name} = {number}: must not be negative")


def _check_labels(source: Source) -> None:
    """There must be something to tell apart. Labels that are missing are said."""
    where = f"data source {source.name!r}"
    if not len(source.test_labels):
        raise InputError(f"{where}, test split: there are no samples")
    known = source.train_labels[source.train_labels >= 0]
    if not len(known):
        raise InputError(f"{where}: no training sample has a label, and encoders too are judged with labels")
    if len(seen := torch.unique(known)) == 1:
        name = source.classes[int(seen)]
        raise InputError(
            f"{where}: all training samples are of one class, {name!r}: there is nothing to tell apart; check its path"
        )
    if hidden := len(source.train_labels) - len(known):
        count = f"{hidden} of {len(source.train_labels)} training samples"
        warnings.warn(f"{where}: {count} have no label (-1): they are dealt out, and used by what needs no labels", Notice, 2)
    if hidden := int((source.test_labels < 0).sum()):
        warnings.warn(
            f"{where}: {hidden} of {len(source.test_labels)} test samples have no label (-1) and are left out", Notice, 2
        )


def _tell_of_owners(source: Source, partition: str) -> None:
    """That the data are dealt out already, where the partition deals them out anew."""
    if source.groups is not None and "natural_id" not in partition:
        owners = len(torch.unique(source.groups))
        cure = f"data.partition = 'natural_id' with data.clients = {owners} gives each its own"
        dealt = f"its samples are those of {owners} clients, and data.partition = {partition!r} deals them out anew"
        warnings.warn(f"data source {source.name!r}: {dealt} ({cure})", Notice, stacklevel=2)


def _check_pool(pool: Tensor, clients: int, *, public: int, validation: int, shared: bool) -> None:
    """There must be something left to deal out, and a sample for each client."""
    if not len(pool):
        raise InputError(
            f"data.public = {public} and data.validation = {validation} leave no training sample to the clients: "
            "lower them, or raise data.train_limit if it is set"
        )
    if clients > len(pool) and not shared:
        raise InputError(f"data.clients = {clients}, but there are only {len(pool)} training samples to deal out")
