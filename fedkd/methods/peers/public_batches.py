"""Lockstep over public samples: all clients predict the same public batch, and learn from the mean of what all said of it.

A round of n batches has n + 1 exchanges, as where peers hold the same samples (``fedkd.methods.peers.lockstep``); the last is
followed by whatever each client does with its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedkd.aggregate import mean, stack
from fedkd.base.errors import InputError
from fedkd.base.randomness import generator
from fedkd.experiment.algorithm.batches import batch_sizes
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.settings import Settings
from fedkd.knowledge.knowledge import Knowledge
from fedkd.methods.peers.lockstep import BESIDE
from fedkd.methods.peers.turns import Drawn, Plan, simultaneous


def public_batches(node: Node, samples: int, batch_size: int) -> Plan:
    """A round's batches of the public samples, one pass in an order of the round: equal at all clients and at the server.

    Args:
        node: where.
        samples: of the one public subset for the whole run; 0 = all.
        batch_size: of all batches but the last, which never is one sample alone.
    """

    def draw() -> Plan:
        subset, seed = node.public_subset(samples, round=0), node.experiment.seed
        draws = list(subset.draws(epochs=1, batch_size=batch_size, rng=generator(seed, node.round, "public batches")))
        everybody = node.experiment.data.clients
        return Plan(subset, Drawn(draws, simultaneous(len(draws), everybody, torch.Generator())))

    return node.live("public batches", draw)


def exchanges_over_public(experiment: Settings, samples: int, batch_size: int) -> int:
    """How many exchanges a round over these public samples has: one more than batches.

    Raises:
        InputError: there are fewer than two public samples.
    """
    public = experiment.run_federation.public
    held = len(public) if public is not None else 0
    if held < 2 or samples == 1:
        raise InputError(
            "strategy: a batch of one public sample has no deviation: set data.public, and public_samples, to 2 or more"
        )
    return len(batch_sizes(min(samples or held, held), batch_size)) + 1


def mean_outputs(server: Server, uploads: Mapping[int, Knowledge], over: Plan) -> Knowledge:
    """What all peers said of the exchange's batch: the mean of each tensor, and who they were."""
    return _told(server, uploads, over, {name: mean(stack(uploads, name)) for name in _names(uploads)})


def means_of_others(server: Server, uploads: Mapping[int, Knowledge], over: Plan) -> dict[int, Knowledge]:
    """For each peer the mean of what the others said of the exchange's batch; zeros for one that is alone."""
    tables = {name: stack(uploads, name) for name in _names(uploads)}  # (K, B, ...) each
    others = max(1, len(uploads) - 1)
    return {
        peer: _told(server, uploads, over, {name: (table.sum(0) - table[place]) / others for name, table in tables.items()})
        for place, peer in enumerate(sorted(uploads))
    }


def first_steps(weights: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """An Adam for one step, in which a weight moves by lr, up or down, unless its gradient is next to nothing."""
    return torch.optim.Adam(weights, lr=lr, eps=3e-4)


def _names(uploads: Mapping[int, Knowledge]) -> list[str]:
    return list(next(iter(uploads.values())).tensors) if uploads else []


def _told(server: Server, uploads: Mapping[int, Knowledge], over: Plan, tensors: Mapping[str, Tensor]) -> Knowledge:
    header = {"peers": ",".join(map(str, sorted(uploads))), "batch": over.digest(over.turns[server.exchange].batch)}
    spaces = {BESIDE + name: next(iter(uploads.values())).spaces[name] for name in tensors}
    return Knowledge({BESIDE + name: tensor for name, tensor in tensors.items()}, spaces, header)
