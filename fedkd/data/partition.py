"""Partitions: how samples are dealt out to clients. Four of our own, and flwr-datasets' by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.base.errors import InputError, did_you_mean, unknown
from fedkd.base.randomness import derive, generator
from fedkd.data.arguments import check_values
from fedkd.data.dealing import Partition, by_label, client_order, in_drawn_order, owners_of, shuffled
from fedkd.data.dirichlet import dirichlet

#: The name of no draw: each node's data are its client's.
EACH_ITS_OWN = "own"


def make_partition(name: str, arguments: Mapping[str, Any], *, clients: int, seed: int) -> Partition:
    """A function that deals out samples. Making it checks the name and the arguments, calling it draws.

    Who gets which part is drawn too, so that no client is favoured over the seeds; but where a client's number has a
    meaning (its size in ``size`` and ``linear``, its owner in ``natural_id`` ...), it keeps it.

    Args:
        name: ``dirichlet``, ``iid``, ``natural_id``, ``shared`` (a single part, which every client sees), or a partitioner
            of flwr-datasets in snake case: ``shard`` is its ``ShardPartitioner``.
        arguments: the partitioner's arguments, but for the number of partitions, the column and the seed.
        clients: how many.
        seed: the run's.

    Raises:
        InputError: an unknown name or argument, or a bad value.
    """
    check_partition(name, arguments, clients=clients)
    if name in OWN:
        return lambda labels, groups: OWN[name](labels, groups, clients, seed, **arguments)
    from fedkd.data.flower_partition import flower_partition  # this imports flwr_datasets, which takes longer than torch

    return flower_partition(name, arguments, clients=clients, seed=seed)


def check_partition(name: str, arguments: Mapping[str, Any], *, known: Iterable[str] = (), clients: int | None = None) -> None:
    """Raise InputError for an unknown partition, for an argument that it does not take, needs and lacks, or cannot use so.

    Args:
        name: the partition's.
        arguments: those given to it.
        known: what else could have been meant by an unknown argument: the other keys of the section.
        clients: how many, if that is known.
    """
    parameters = _parameters(name)
    for argument in sorted(arguments.keys() - parameters):
        if others := [other for other in partition_names() if argument in argument_names(other)]:
            raise InputError(f"unknown key 'data.{argument}' with partition {name!r}: it is one of {' and '.join(others)}")
        near = did_you_mean(argument, {*parameters, *known})
        raise InputError(f"unknown key 'data.{argument}' with partition {name!r}: {near}")
    for argument, parameter in sorted(parameters.items()):
        if parameter.default is Parameter.empty and argument not in arguments:
            raise InputError(f"data.partition {name!r} needs data.{argument}")
    check_values(name, arguments, parameters, clients=clients)


def argument_names(name: str) -> set[str]:
    """The arguments that a partition takes. InputError for an unknown partition."""
    return set(_parameters(name))


def _parameters(name: str) -> dict[str, Parameter]:
    """A partition's arguments by name, with their types and defaults."""
    if name in OWN:
        taken = signature(OWN[name], eval_str=True).parameters
        return {key: parameter for key, parameter in taken.items() if parameter.kind is Parameter.KEYWORD_ONLY}
    if name == EACH_ITS_OWN:
        return {}
    from fedkd.data.flower_partition import parameters, partitioners  # only here: see make_partition

    if name not in partitioners():
        raise unknown("data.partition", name, partition_names())
    return parameters(name)


def partition_names() -> list[str]:
    """Every name that data.partition takes."""
    from fedkd.data.flower_partition import partitioners

    return sorted({*OWN, EACH_ITS_OWN, *partitioners()})


def _iid(labels: Tensor, groups: Tensor | None, clients: int, seed: int) -> list[Tensor]:
    """All samples are shuffled by the seed and dealt out in parts of equal size."""
    return shuffled(torch.randperm(len(labels), generator=generator(seed, "partition")).tensor_split(clients), seed)


def _natural_id(labels: Tensor, groups: Tensor | None, clients: int, seed: int, *, min_partition_size: int = 0) -> list[Tensor]:
    """Each owner is a client: ``data.client_column`` says whose a sample is, or folders or files by client do.

    Args:
        min_partition_size: an owner with fewer samples than this is no client, and nobody holds them.
    """
    owners = owners_of(groups, "natural_id")
    sizes = torch.unique(owners, return_counts=True)[1].tolist()
    parts = [part for part in torch.split(owners.argsort(stable=True), sizes) if len(part) >= min_partition_size]
    if not parts:
        raise InputError(f"data.min_partition_size = {min_partition_size}: no owner has so many samples, the most {max(sizes)}")
    return parts


def _shared(labels: Tensor, groups: Tensor | None, clients: int, seed: int) -> list[Tensor]:
    """Every client holds all samples: for peers that learn the same data."""
    return [torch.arange(len(labels))]


def _dirichlet(
    labels: Tensor,
    groups: Tensor | None,
    clients: int,
    seed: int,
    *,
    alpha: int | float | list[float] | NDArray[np.float64],
    min_partition_size: int = 10,
    self_balancing: bool = False,
    shuffle: bool = True,
) -> list[Tensor]:
    """Every client gets a drawn share of each class, as flwr-datasets' ``DirichletPartitioner`` draws it.

    Args:
        alpha: above 0: the smaller, the fewer classes a client has. One number, or one for each client.
        min_partition_size: draw again where a client has fewer samples than this.
        self_balancing: a client that has more samples than the mean gets none of the classes that follow.
        shuffle: within each client's samples; else they stand class by class.
    """
    alphas = np.broadcast_to(np.asarray(alpha, dtype=np.float64).ravel(), clients)
    kept = alphas[client_order(clients, seed).argsort().numpy()]  # each client keeps the alpha that was given for it

    def deal(labels: Tensor) -> list[Tensor]:
        order, numbers = in_drawn_order(labels, seed)
        parts = dirichlet(
            numbers.numpy(),
            kept,
            min_partition_size=min_partition_size,
            self_balancing=self_balancing,
            shuffle=shuffle,
            seed=derive(seed, "partition"),
        )
        return [order[torch.from_numpy(part)] for part in parts]

    return shuffled(by_label("dirichlet", labels, deal, seed), seed)


#: Our own: (labels, groups, clients, seed) -> each client's rows; what more they take are keys of [data].
OWN: dict[str, Callable[..., list[Tensor]]] = {
    "dirichlet": _dirichlet,
    "iid": _iid,
    "natural_id": _natural_id,
    "shared": _shared,
}
