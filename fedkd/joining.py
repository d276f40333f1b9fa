"""Which node is which client: by the ``partition-id`` that a node says it has, else by the order of node ids."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import ConfigRecord, Message

from fedkd.errors import InputError, Notice


def claims_of(replies: Iterable[Message], record: str) -> dict[int, int]:
    """Node id -> the ``partition-id`` that its reply names in this record; -1 where it names none, or is no such reply."""
    claims: dict[int, int] = {}
    for reply in replies:
        said = reply.content.get(record) if reply.has_content() else None
        claim = said.get("partition-id") if isinstance(said, ConfigRecord) else None
        claims.setdefault(reply.metadata.src_node_id, claim if type(claim) is int else -1)
    return claims


def assign_clients(claims: Mapping[int, int], nodes: Sequence[int], clients: int) -> dict[int, int]:
    """Client id -> node id, for all of 0 .. ``clients`` - 1.

    Where no node has a number, clients are the nodes in order of their ids. Else a node without a number, or with one that no
    client has, is left out.

    Raises:
        InputError: two nodes have one number, or a client has no node.

    >>> assign_clients({702: 0, 15: 2, 8: 1}, [8, 15, 702], 3)
    {0: 702, 1: 8, 2: 15}
    """
    if all(claims.get(node, -1) < 0 for node in nodes):
        return dict(enumerate(nodes[:clients]))
    node_of: dict[int, int] = {}
    for node in sorted(claims):
        client = claims[node]
        if 0 <= client < clients and node_of.setdefault(client, node) != node:
            raise InputError(f"node config: two nodes have partition-id {client}: give each node its own")
    if missing := sorted(set(range(clients)) - node_of.keys()):
        raise InputError(f"node config: no node has partition-id {missing[0]}: start one node for each client")
    if unused := sorted(set(nodes) - set(node_of.values())):
        warnings.warn(f"nodes without a partition-id of 0 to {clients - 1} take no part: {unused[:5]}", Notice, stacklevel=2)
    return dict(sorted(node_of.items()))
