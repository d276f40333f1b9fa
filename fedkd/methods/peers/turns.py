"""Who learns when, in a round of peers: together, one after the other on each batch, or each on batches of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Literal, final
from weakref import WeakKeyDictionary

import torch

from fedkd.base.randomness import generator
from fedkd.data import Samples
from fedkd.experiment.algorithm.batches import batches_a_round
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.settings import Settings
from fedkd.experiment.algorithm.train import Batch, Draw, Split

UpdateName = Literal["simultaneous", "sequential", "alternating"]


@final
@dataclass(frozen=True)
class Turn:
    """Some peers learn from one batch of the round."""

    batch: int
    learners: frozenset[int]


def simultaneous(batches: int, peers: int, rng: torch.Generator) -> list[Turn]:
    """All learn from each batch at once, from outputs computed before anybody learned: no order of peers matters.

    >>> [sorted(turn.learners) for turn in simultaneous(2, 3, torch.Generator())]
    [[0, 1, 2], [0, 1, 2]]
    """
    return [Turn(batch, frozenset(range(peers))) for batch in range(batches)]


def sequential(batches: int, peers: int, rng: torch.Generator) -> list[Turn]:
    """On each batch one peer learns after the other, in an order drawn for each, and then uploads its outputs again.

    >>> [turn.batch for turn in sequential(2, 3, torch.Generator())]
    [0, 0, 0, 1, 1, 1]
    """
    orders = [torch.randperm(peers, generator=rng).tolist() for _ in range(batches)]
    return [Turn(batch, frozenset([peer])) for batch, order in enumerate(orders) for peer in order]


def alternating(batches: int, peers: int, rng: torch.Generator) -> list[Turn]:
    """Each batch teaches one peer, in turn: a peer takes one step in K, and no two learn from the same batch.

    >>> [sorted(turn.learners) for turn in alternating(3, 2, torch.Generator())]
    [[0], [1], [0]]
    """
    return [Turn(batch, frozenset([batch % peers])) for batch in range(batches)]


UPDATES: dict[UpdateName, Callable[[int, int, torch.Generator], list[Turn]]] = {
    "simultaneous": simultaneous,
    "sequential": sequential,
    "alternating": alternating,
}


@final
@dataclass(frozen=True, eq=False)
class Drawn:
    """What the peers of one process draw alike for a round, and the batch that they are at: taken and hashed once for all."""

    draws: list[Draw]
    turns: list[Turn]
    digests: list[str] = field(default_factory=list)
    newest: dict[int, tuple[Batch, int]] = field(default_factory=dict)  # number -> batch, how often it was written to


@final
@dataclass(frozen=True, eq=False)
class Plan:
    """The batches and turns of one round, equal at all peers and at the server."""

    data: Split
    drawn: Drawn

    @property
    def draws(self) -> list[Draw]:
        """The batches of the round."""
        return self.drawn.draws

    @property
    def turns(self) -> list[Turn]:
        """Who learns when."""
        return self.drawn.turns

    def batch(self, number: int) -> Batch:
        """One batch of the round. Peers of one process share it, unless a net or a loss has written to it."""
        if self.data.work.moments is not None:  # a peer's own
            return self.data.batch(self.draws[number])
        batch, writes = self.drawn.newest.get(number, (None, 0))
        if batch is None or _writes(batch) != writes:
            batch = self.data.batch(self.draws[number])
            self.drawn.newest.clear()
            self.drawn.newest[number] = batch, _writes(batch)
        return batch

    def digest(self, number: int) -> str:
        """A hash of the ids and labels of a batch: equal where two peers mean the same samples."""
        if not self.drawn.digests:
            self.drawn.digests.extend(self._digests())
        return self.drawn.digests[number]

    def _digests(self) -> Iterator[str]:
        """Of all batches in turn: to look their labels up at once takes a fraction of the time."""
        samples, positions = self.data.samples, [draw.positions for draw in self.draws]
        ids = samples.indices[torch.cat(positions)]
        both = torch.stack([ids, samples.labels[ids]]).split([len(each) for each in positions], dim=1)  # (2, B) each
        return (hashlib.blake2b(each.numpy().tobytes(), digest_size=8).hexdigest() for each in both)

    def is_new(self, exchange: int) -> bool:
        """Whether this exchange is the first about its batch."""
        return exchange == 0 or self.turns[exchange].batch != self.turns[exchange - 1].batch

    def uploads(self, peer: int, exchange: int) -> bool:
        """Whether this peer uploads outputs: for a new batch, or again for one that it has just learned from."""
        if exchange == len(self.turns):
            return False
        return self.is_new(exchange) or peer in self.turns[exchange - 1].learners

    def will_learn(self, peer: int, exchange: int) -> bool:
        """Whether this peer still learns from the batch that this exchange is about."""
        batch = self.turns[exchange].batch
        coming = takewhile(lambda turn: turn.batch == batch, islice(self.turns, exchange, None))
        return any(peer in turn.learners for turn in coming)


def plan(node: Node, update: UpdateName = "simultaneous") -> Plan:
    """This round's plan: every node draws the same, from the seed and the round."""
    return node.live("plan of turns", lambda: _plan(node, update))


#: What was drawn last from some samples, and from what else it follows.
_DRAWN: WeakKeyDictionary[Samples, tuple[object, Drawn]] = WeakKeyDictionary()


def _plan(node: Node, update: UpdateName) -> Plan:
    data = (node.train if isinstance(node, Client) else node.split(node.federation.client_train(0))).labelled()
    settings, seed, peers = node.experiment.train, node.experiment.seed, node.experiment.data.clients
    key = (settings, seed, peers, node.round, update, node.device, data.work.views)
    before, drawn = _DRAWN.get(data.samples, (None, None))
    if drawn is None or before != key:
        draws = list(data.of_a_round(settings.batch_size, generator(seed, node.round, "batches of all peers")))
        drawn = Drawn(draws, UPDATES[update](len(draws), peers, generator(seed, node.round, "turns of peers")))
        _DRAWN[data.samples] = key, drawn
    return Plan(data, drawn)


def _writes(batch: Batch) -> int:
    """How often the tensors of a batch were written to."""
    inputs = batch.inputs.values() if isinstance(batch.inputs, Mapping) else [batch.inputs]
    return sum(tensor._version for tensor in [*inputs, batch.labels])


def exchanges(experiment: Settings, update: UpdateName = "simultaneous") -> int:
    """How many exchanges a round has: one more than turns."""
    settings, samples = experiment.train, len(experiment.run_federation.client_train(0).labelled())
    batches = batches_a_round(samples, settings)
    return len(UPDATES[update](batches, experiment.data.clients, torch.Generator())) + 1
