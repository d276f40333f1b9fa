"""Partitions: how images are dealt out to clients. Three of our own, and flwr-datasets' by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fedkd.base.errors import InputError, did_you_mean, unknown
from fedkd.base.randomness import generator
from fedkd.data.dealing import Partition, owners_of, shuffled


def make_partition(name: str, arguments: Mapping[str, Any], *, clients: int, seed: int) -> Partition:
    """A function that deals out images. Making it checks the name and the arguments, calling it draws.

    Who gets which part is drawn too, so that no client is favoured over the seeds; but where a client's number has a
    meaning (its size in ``size`` and ``linear``, its owner in ``natural_id`` ...), it keeps it.

    Args:
        name: ``iid``, ``natural_id``, ``shared`` (a single part, which every client sees), or a partitioner of
            flwr-datasets in snake case: ``dirichlet`` is its ``DirichletPartitioner``.
        arguments: the partitioner's arguments, but for the number of partitions, the column and the seed.
        clients: how many.
        seed: the run's.

    Raises:
        InputError: an unknown name or argument, or a bad value.
    """
    check_partition(name, arguments)
    if name in OWN:
        return lambda labels, groups: OWN[name](labels, groups, clients, seed)
    from fedkd.data.flower_partition import flower_partition

    return flower_partition(name, arguments, clients=clients, seed=seed)


def check_partition(name: str, arguments: Mapping[str, Any], *, known: Iterable[str] = (), clients: int | None = None) -> None:
    """Raise InputError for an unknown partition, for an argument that it does not take, needs and lacks, or cannot use so.

    Args:
        name: the partition's.
        arguments: those given to it.
        known: what else could have been meant by an unknown argument: the other keys of the section.
        clients: how many, if that is known.
    """
    required, optional = _parameters(name)
    for argument in sorted(set(arguments) - required - optional):
        if others := [other for other in partition_names() if argument in argument_names(other)]:
            raise InputError(f"unknown key 'data.{argument}' with partition {name!r}: it is one of {' and '.join(others)}")
        near = did_you_mean(argument, required | optional | {*known})
        raise InputError(f"unknown key 'data.{argument}' with partition {name!r}: {near}")
    for argument in sorted(required - set(arguments)):
        raise InputError(f"data.partition {name!r} needs data.{argument}")
    if name not in OWN:
        from fedkd.data.arguments import check_values

        check_values(name, arguments, clients=clients)


def argument_names(name: str) -> set[str]:
    """The arguments that a partition takes. InputError for an unknown partition."""
    required, optional = _parameters(name)
    return required | optional


def _parameters(name: str) -> tuple[set[str], set[str]]:
    """The names of a partition's required and optional arguments."""
    if name in OWN:
        return set(), set()
    from fedkd.data.flower_partition import parameters, partitioners  # this imports flwr_datasets: 1.5 s

    if name not in partitioners():
        raise unknown("data.partition", name, partition_names())
    return parameters(name)


def partition_names() -> list[str]:
    """Every name that make_partition knows."""
    from fedkd.data.flower_partition import partitioners

    return sorted({*OWN, *partitioners()})


def _iid(labels: Tensor, groups: Tensor | None, clients: int, seed: int) -> list[Tensor]:
    return shuffled(torch.randperm(len(labels), generator=generator(seed, "partition")).tensor_split(clients), seed)


def _natural_id(labels: Tensor, groups: Tensor | None, clients: int, seed: int) -> list[Tensor]:
    owners = owners_of(groups, "natural_id")
    sizes = torch.unique(owners, return_counts=True)[1].tolist()
    return list(torch.split(owners.argsort(stable=True), sizes))


def _shared(labels: Tensor, groups: Tensor | None, clients: int, seed: int) -> list[Tensor]:
    return [torch.arange(len(labels))]


OWN = {"iid": _iid, "natural_id": _natural_id, "shared": _shared}
