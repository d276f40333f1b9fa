"""Before round 1: which node is which client, and whether all of them hold the server's data."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import ConfigRecord, Message, RecordDict

from fedkd import __version__
from fedkd.base.errors import InputError, Notice
from fedkd.engine.frozen_parts import FROZEN, frozen_fact
from fedkd.engine.instruction import JOIN, RECORD
from fedkd.engine.reasons import first_line
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.protection import agreed_facts

#: The name of the fact which fedkd a node runs: two releases need not read each other's messages alike.
RELEASE = "fedkd"
#: What Flower says where an app cannot take part -> what to do about it.
CURES = {
    "No query function registered": (
        ": its ClientApp does not know fedkd; make it with fedkd.app.client_app, or call the functions of fedkd.client in it"
    ),
    "expects exactly one ArrayRecord": (
        " It clips and noises one record of weights in every message, and messages of fedkd are not that: leave this mod out; "
        "fedkd's own noise is set under privacy"
    ),
}


def questions(nodes: Iterable[int], record: ConfigRecord, beside: Mapping[str, ConfigRecord]) -> list[Message]:
    """The messages that ask nodes who they are."""
    return [Message(RecordDict({RECORD: record, **beside}), node, JOIN) for node in nodes]


def claims_of(replies: Iterable[Message]) -> dict[int, int]:
    """Node id -> the ``partition-id`` that its reply names; -1 where it names none, or is no such reply."""
    claims: dict[int, int] = {}
    for reply in replies:
        record = reply.content.get(RECORD) if reply.has_content() else None
        claim = record.get("partition-id") if isinstance(record, ConfigRecord) else None
        claims.setdefault(reply.metadata.src_node_id, claim if type(claim) is int else -1)
    return claims


def refuse_errors(replies: Iterable[Message]) -> None:
    """Raise InputError for the first node, in order of id, that could not even load the run's data."""
    for reply in sorted(replies, key=lambda reply: reply.metadata.src_node_id):
        if reply.has_error():
            reason = first_line(reply.error.reason or "").removeprefix("InputError: ")
            cure = next((cure for sign, cure in CURES.items() if sign in reason), "")
            raise InputError(f"node {reply.metadata.src_node_id} cannot join: {reason}{cure}")


def facts_of(strategy: Algorithm, node: Node, *, simulated: bool) -> dict[str, str]:
    """What must be equal at all nodes: of data, and where not all are in one simulation, fedkd itself and frozen weights."""
    facts = agreed_facts(node.federation.facts, node.experiment.privacy, simulated=simulated)
    return facts if simulated else {RELEASE: __version__} | facts | frozen_fact(strategy, node)


def check_data(reply_of: Mapping[int, Message], ours: Mapping[str, str]) -> None:
    """Compare what each client's node says of its fedkd, its data and its frozen weights, by name, with the server's.

    Raises:
        InputError: the first client, in order of id, whose node holds others.
    """
    for client, reply in sorted(reply_of.items()):
        facts = reply.content.get(RECORD) if reply.has_content() else None
        for name, expected in ours.items():
            theirs = facts.get(name) if isinstance(facts, ConfigRecord) else None
            if theirs != expected and name == RELEASE:
                said = f"fedkd {str(theirs)[:30]}" if theirs else "another fedkd, which does not say its version"
                raise InputError(f"client {client} runs {said}, the server {expected}: install the same version everywhere")
            if theirs != expected:
                what = (
                    f"its {name.replace('_', ' ')} is {str(theirs or 'not said')[:64]}, the server's is {expected or 'empty'}"
                )
                held = "frozen weights" if name == FROZEN else "data"
                cure = "give all nodes the same files"
                cure += ', or set data.partition = "own" if each is to have its own' if name == "content_hash" else ""
                raise InputError(f"client {client} holds other {held} than the server ({what}): {cure}")


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
