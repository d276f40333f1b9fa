"""Who learns when, in a round of peers: together, one after the other on each batch, or each on batches of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Literal, final

import torch

from fedkd.base.randomness import generator
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
class Plan:
    """The batches and turns of one round, equal at all peers and at the server."""

    data: Split
    draws: list[Draw]
    turns: list[Turn]
    _digests: dict[int, str] = field(default_factory=dict, init=False, repr=False)

    def batch(self, number: int) -> Batch:
        """One batch of the round."""
        return self.data.batch(self.draws[number])

    def digest(self, number: int) -> str:
        """A hash of the ids and labels of a batch: equal where two peers mean the same samples."""
        if number not in self._digests:
            ids = self.data.samples.indices[self.draws[number].positions]
            content = torch.stack([ids, self.data.samples.labels[ids]]).numpy()
            self._digests[number] = hashlib.blake2b(content.tobytes(), digest_size=8).hexdigest()
        return self._digests[number]

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


def _plan(node: Node, update: UpdateName) -> Plan:
    data = node.train if isinstance(node, Client) else node.split(node.federation.client_train(0))
    settings, seed = node.experiment.train, node.experiment.seed
    rng = generator(seed, node.round, "batches of all peers")
    draws = list(data.labelled().of_a_round(settings.batch_size, rng))
    turns = UPDATES[update](len(draws), node.experiment.data.clients, generator(seed, node.round, "turns of peers"))
    return Plan(data.labelled(), draws, turns)


def exchanges(experiment: Settings, update: UpdateName = "simultaneous") -> int:
    """How many exchanges a round has: one more than turns."""
    settings, samples = experiment.train, len(experiment.run_federation.client_train(0).labelled())
    batches = batches_a_round(samples, settings)
    return len(UPDATES[update](batches, experiment.data.clients, torch.Generator())) + 1
