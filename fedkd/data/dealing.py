"""What partitions have in common: whose a sample is, what has no label, and which part goes to which client."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.base.randomness import generator

Partition = Callable[[Tensor, Tensor | None], list[Tensor]]  # labels (N,), groups (N,) or None -> each client's rows


def owners_of(groups: Tensor | None, name: str) -> Tensor:
    """The groups (N,), or an InputError where the data set has none."""
    if groups is None:
        need = "the column that says whose a sample is, or folders or files by client: client/class"
        raise InputError(f"data.partition {name!r} needs data.client_column, {need}")
    return groups


def client_order(clients: int, seed: int) -> Tensor:
    """The number of the part that each client gets, (clients,): a draw, as some parts are larger by their place."""
    return torch.randperm(clients, generator=generator(seed, "partition clients"))


def shuffled(parts: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The parts in the clients' order."""
    return [parts[part] for part in client_order(len(parts), seed).tolist()]


def in_drawn_order(keys: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Rows (N,) in an order that is drawn, as some partitions do not shuffle, and their keys, numbered from 0 without gaps."""
    order = torch.randperm(len(keys), generator=generator(seed, "partition order"))
    return order, torch.unique(keys[order], return_inverse=True)[1]


def by_label(name: str, labels: Tensor, deal: Callable[[Tensor], list[Tensor]], seed: int) -> list[Tensor]:
    """Parts of rows (N,) that ``deal`` makes of the labels that there are; rows without one go evenly to all parts."""
    labelled, rest = torch.nonzero(labels >= 0).flatten(), torch.nonzero(labels < 0).flatten()
    if not len(labelled):
        raise InputError(f"data.partition {name!r} deals out by label, and no sample has one: set it to 'iid'")
    parts = [labelled[part] for part in deal(labels[labelled])]
    if not len(rest):
        return parts
    evenly = rest[torch.randperm(len(rest), generator=generator(seed, "partition rest"))].tensor_split(len(parts))
    return [torch.cat(both) for both in zip(parts, evenly, strict=True)]
