"""Gossip without a server: clients on a graph hear their neighbours' tables and mix them; the server only passes these on.

An edge counts in a round if both its ends uploaded: then each hears the other, and weights that are symmetric leave the mean
over all clients as it was, whoever failed. What a client was passed waits for it until it has uploaded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from fedkd.aggregate import stack
from fedkd.aggregate.topology import Neighbours, graph, mixing_matrix
from fedkd.experiment.algorithm.client import Client
from fedkd.knowledge import codecs
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.memory import Memory


@lru_cache(maxsize=8)
def peers(name: str, clients: int, degree: int, seed: int) -> tuple[Neighbours, Tensor]:
    """The neighbours of every client on a graph, and the mixing matrix W (K, K); arguments and errors as for ``graph``."""
    neighbours = graph(name, clients, degree=degree, seed=seed)
    return neighbours, mixing_matrix(neighbours).float()


def route(uploads: Mapping[int, Knowledge], name: str, neighbours: Neighbours, *, round: int) -> dict[int, Knowledge]:
    """What each client that uploaded is passed: the tables (deg, P, C) of those of its neighbours that did too.

    Args:
        uploads: by client id, each with a table ``name`` (P, C).
        name: of the table.
        neighbours: of every client, ascending.
        round: the router's, so that nobody mixes the same tables twice.

    Returns:
        by client id; nothing for a client none of whose neighbours uploaded.
    """
    passed = {}
    for client, upload in uploads.items():
        if heard := {other: uploads[other] for other in neighbours[client] if other in uploads}:
            header = {"heard_from": ",".join(map(str, heard)), "heard_in": round}
            passed[client] = Knowledge.of(upload.spaces[name], {name: stack(heard, name)}, header=header)
    return passed


def hear(memory: Memory, passed: Knowledge, name: str, weights: Tensor) -> Tensor:
    """A client's own table after it was passed those of its neighbours, which count once; its own if it was passed none.

    Args:
        memory: the client's, with its table under ``name``; it is told what was heard.
        passed: what ``route`` gave for this client, or empty knowledge.
        name: of the table.
        weights: the client's row of the mixing matrix, (K,).
    """
    own, heard_in = memory.tensor(name), int(passed.header.get("heard_in", 0))
    if heard_in <= int(memory.get("heard_in", 0)):
        return own
    memory["heard_in"] = heard_in
    others = torch.tensor([int(client) for client in str(passed.header["heard_from"]).split(",")])
    return mix(own, passed.tensors[name], weights[others])


def as_heard(client: Client, table: Tensor, space: str) -> Tensor:
    """What the neighbours will read of a table (P, C) that this client uploads: the same, but for what codecs lose.

    Who takes this for its own table keeps the mean over all clients when it is mixed, as both ends of an edge then hold alike
    what was said along it. Not with "svd" on the downlink, which cuts the tables that a client is passed all at once.
    """
    experiment, strategy = client.experiment, client.experiment.strategy
    up = codecs.chain(strategy.uplink(experiment), "uplink")
    down = codecs.chain(strategy.downlink(experiment), "downlink")
    uploaded = codecs.as_decoded(up, Knowledge.of(space, {"table": table})).tensors["table"]
    return codecs.as_decoded(down, Knowledge.of(space, {"table": uploaded[None]})).tensors["table"][0]


def mix(own: Tensor, heard: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of one's own table and those heard; one's own weight is what theirs leave of 1.

    >>> mix(torch.zeros(1, 2), torch.tensor([[[4.0, 0.0]], [[0.0, 8.0]]]), torch.tensor([0.25, 0.5])).tolist()
    [[1.0, 4.0]]
    """
    return (1 - weights.sum()) * own + torch.einsum("n,npc->pc", weights, heard)
