"""What is drawn for tests, by a client of its own samples and globally, and which samples keep their labels."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.base.inputs import count
from fedkd.base.randomness import generator
from fedkd.data.shares import Shares
from fedkd.data.source import Source


def cut_test(labels: Tensor, rows: Tensor, share: float, *, seed: int, client: int) -> tuple[Tensor, Tensor]:
    """Train and test rows of a client's ``rows``, at least one of each where a share is asked for and two have labels.

    ``labels`` (N,) are those of the whole set, -1 where there is none: only who has one can be tested on.
    """
    shuffled = rows[torch.randperm(len(rows), generator=generator(seed, "client test", client))]
    known = labels[shuffled] >= 0
    labelled, others = shuffled[known], shuffled[~known]
    held = tested(len(labelled), share)
    return torch.cat([labelled[held:], others]), labelled[:held]


def cut_tests(labels: Tensor, shares: Shares, share: float, *, seed: int) -> tuple[Shares, Shares]:
    """``cut_test`` of all clients at once: their train rows and their test rows."""
    orders = [
        torch.randperm(size, generator=generator(seed, "client test", client))
        for client, size in enumerate(shares.sizes.tolist())
    ]
    begins = shares.sizes.cumsum(0) - shares.sizes  # (K,)
    shuffled = shares.rows[torch.cat(orders) + begins[shares.owners]]
    known = labels[shuffled] >= 0  # (T,)
    labelled = shares.count(known.long(), 2)[:, 1]
    held = torch.tensor([tested(number, share) for number in labelled.tolist()])
    shuffled = shuffled[(shares.owners * 2 + ~known).argsort(stable=True)]  # of each client those with a label come first
    of_test = torch.arange(len(shuffled)) - begins[shares.owners] < held[shares.owners]
    return Shares(shuffled[~of_test], shares.sizes - held), Shares(shuffled[of_test], held)


def tested(labelled: int, share: float) -> int:
    """How many of so many labelled samples a client keeps for its own test."""
    return max(min(max(round(labelled * share), 1), labelled - 1), 0) if share else 0


def unlabelled_rows(labels: Tensor, train: Tensor, share: float, *, seed: int, client: int) -> Tensor:
    """The rows among a client's ``train`` whose labels may not be used, where only a share of them may."""
    known = train[labels[train] >= 0]
    shuffled = known[torch.randperm(len(known), generator=generator(seed, "labelled", client))]
    return shuffled[round(len(known) * share) :]


def drawn_for_test(source: Source, limit: int, *, seed: int) -> Tensor:
    """Rows of the labelled samples of a source's test split, or of ``limit`` of them, ascending. 0 is all."""
    shuffled = torch.randperm(count(source.test_inputs), generator=generator(seed, "test limit"))
    labelled = shuffled[source.test_labels[shuffled] >= 0]
    return labelled[: limit or None].sort().values
