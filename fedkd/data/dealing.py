"""What every partition deals with: whose an image is, and which part goes to which client."""

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
        need = "the column that says whose an image is, or image folders by client: client/class"
        raise InputError(f"data.partition {name!r} needs data.natural_column, {need}")
    return groups


def client_order(clients: int, seed: int) -> Tensor:
    """The number of the part that each client gets, (clients,): a draw, as some parts are larger by their place."""
    return torch.randperm(clients, generator=generator(seed, "partition clients"))


def shuffled(parts: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The parts in the clients' order."""
    return [parts[part] for part in client_order(len(parts), seed).tolist()]
