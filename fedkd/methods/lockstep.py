"""Peers in lockstep: the same mini-batches at all of them, and an exchange on each before anybody learns from it.

A round of n turns has n + 1 exchanges. In exchange e a peer learns from what all said of the batch of turn e - 1, then says
something of the batch of turn e: the first exchange only says, the last only learns, and nothing but memory crosses a round.
What it said it holds with its graph, so that learning costs a backward pass and no second forward one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from fedkd.base.errors import TrainingError
from fedkd.base.randomness import derive, seeded
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import Batch, descend
from fedkd.knowledge.knowledge import Knowledge, TensorSpec
from fedkd.methods.turns import Plan, UpdateName, plan

Said = Mapping[str, Tensor]
#: Where a peer's memory holds the net's buffers from before the pass it holds, and its losses of the round so far.
BUFFERS, LOGGED, LOGGED_NAMES = "lockstep/buffers/", "lockstep/logged", "lockstep/logged names"
#: Tensors that are not of the exchange's batch, of peers or of the server, have names that begin so.
BESIDE = "beside/"


@final
@dataclass(frozen=True)
class Peer:
    """A client as a peer: what it trains, what it says of a batch, and how it learns from what all said.

    Args:
        net: all that is trained, in one module; kept in the client's memory.
        say: tensors (B, ...) by name, with their graph, from one forward pass over the batch.
        loss: parts of the loss by name, from what this peer said, what all said, and the batch; the same names each time.
        weight: of distillation, as it is reported.
        unsaid: names of what ``say`` gives for this peer's own loss only.
    """

    net: nn.Module
    say: Callable[[Batch], Said]
    loss: Callable[[Said, Heard, Batch], Mapping[str, Tensor]]
    weight: float = 1.0
    unsaid: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Heard:
    """What the peers said of one batch, by id and not by arrival; constants."""

    ids: tuple[int, ...]  # K of them, in order
    me: int
    tensors: Mapping[str, Tensor]  # (K, B, ...) each
    beside: Mapping[str, Tensor]  # what the server added, of any shape

    def others(self, name: str) -> Tensor:
        """What all but me said. (K - 1, B, ...)"""
        said = self.tensors[name]
        others = [theirs for peer, theirs in zip(self.ids, said, strict=True) if peer != self.me]
        return torch.stack(others) if others else said[:0]

    def with_mine(self, name: str, mine: Tensor) -> Tensor:
        """What all said, with the graph of mine (B, ...) in my place. (K, B, ...)

        A function of all that is said has the same gradient in mine as if all were trained together. Its value is the same at
        all peers, to the bit: mine counts as the others heard it, where codecs lose something.
        """
        said = zip(self.ids, self.tensors[name], strict=True)
        return torch.stack([theirs + (mine - mine.detach()) if peer == self.me else theirs for peer, theirs in said])


# ---- the client's half


def take_turn(client: Client, broadcast: Knowledge, peer: Peer, update: UpdateName = "simultaneous") -> Knowledge:
    """One exchange at a peer: learn from the last turn's batch, if it was this peer's turn, then speak of the next.

    Raises:
        ValueError: the broadcast speaks of another batch.
        TrainingError: there is nothing to learn from, or what the peer would say is not finite, or was the loss of the round.
    """
    round, exchange = plan(client, update), client.exchange
    if not round.draws:
        raise TrainingError(f"{client.work().where}: there are no labelled samples to train on")
    client.live("peer in train mode", peer.net.train)  # set where it is not, as walking a deep net costs
    if not exchange:
        begin(client, peer.net)
    if exchange and client.id in round.turns[exchange - 1].learners:
        _learn(client, broadcast, peer, round)
    if exchange == len(round.turns):
        return Knowledge(weight=len(round.data), metrics=_report(client, round) | {"distillation_weight": peer.weight})
    said = _speak(client, peer, round) if round.speaks(client.id, exchange) else {}
    tensors = {name: tensor.detach().float() for name, tensor in said.items() if name not in peer.unsaid}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise TrainingError(f"{client.work().where}: its {name} are not finite; lower train.lr or set train.clip")
    header = {"batch": round.digest(round.turns[exchange].batch)}
    return Knowledge(tensors, {name: _space(name) for name in tensors}, header, weight=len(round.data))


def begin(client: Client, net: nn.Module) -> None:
    """Forget, at a round's beginning, what one that this peer left has left: losses, and the trace of a pass without a step."""
    _take_back(client, net)
    client.memory.store(BUFFERS, {})
    for name in (LOGGED, LOGGED_NAMES):
        client.memory.pop(name, None)


def _speak(client: Client, peer: Peer, round: Plan) -> Said:
    """A forward pass. It is held if this peer is still to learn from it; else it leaves no trace in BatchNorm's statistics."""
    if not round.will_learn(client.id, client.exchange):
        with torch.no_grad(), _untracked(peer.net):
            return _forward(client, peer, round, client.exchange)[1]
    for name, buffer in peer.net.named_buffers():
        client.memory[BUFFERS + name] = buffer.clone()  # on its device, as it is let go of after the step
    held = _forward(client, peer, round, client.exchange)
    client.set_live("held pass", held)
    return held[1]


def _forward(client: Client, peer: Peer, round: Plan, exchange: int) -> tuple[Batch, Said]:
    number = round.turns[exchange].batch
    batch, seed = round.batch(number), derive(client.experiment.seed, client.round, client.name, "pass", number)
    with seeded(seed), client.work().autocast():  # dropout draws the same when a pass is repeated
        return batch, peer.say(batch)


def _learn(client: Client, broadcast: Knowledge, peer: Peer, round: Plan) -> None:
    number = round.turns[client.exchange - 1].batch
    if broadcast.header.get("batch") != round.digest(number):
        raise ValueError(f"the broadcast speaks of batch {broadcast.header.get('batch')}, not of {round.digest(number)}")
    optimizer, work = client.optimizer("peer", peer.net), client.work()
    batch, said = client.live("held pass", lambda: _repeat(client, peer, round))
    with work.autocast():
        parts = peer.loss(said, _heard(client, broadcast), batch)
    client.memory.store(BUFFERS, {})
    logged = descend(parts, optimizer, work).double() * len(batch)  # (parts + 1,)
    before = client.memory.tensor(LOGGED).to(logged.device) if LOGGED in client.memory else 0  # memory may have lain on the CPU
    client.memory[LOGGED] = logged + before
    client.memory[LOGGED_NAMES] = ",".join([*parts, "loss"])


def _repeat(client: Client, peer: Peer, round: Plan) -> tuple[Batch, Said]:
    """The pass again, on a grid that forgot it, with the buffers that it began with: their statistics move once."""
    _take_back(client, peer.net)
    return _forward(client, peer, round, client.exchange - 1)


def _take_back(client: Client, net: nn.Module) -> None:
    for name, before in client.memory.under(BUFFERS).items():
        net.get_buffer(name).copy_(before)


@contextmanager
def _untracked(net: nn.Module) -> Iterator[None]:
    """Put the buffers back after the block."""
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    yield
    for name, buffer in net.named_buffers():
        buffer.copy_(before[name])


def _heard(client: Client, broadcast: Knowledge) -> Heard:
    ids = tuple(int(peer) for peer in str(broadcast.header["peers"]).split(",") if peer)
    tensors = {name: tensor.to(client.device) for name, tensor in broadcast.tensors.items()}
    beside = {name.removeprefix(BESIDE): tensor for name, tensor in tensors.items() if name.startswith(BESIDE)}
    return Heard(ids, client.id, {name: t for name, t in tensors.items() if not name.startswith(BESIDE)}, beside)


def _report(client: Client, round: Plan) -> dict[str, float]:
    """The means of the losses over the samples that this peer learned from; memory lets go of them."""
    if LOGGED not in client.memory:
        return {}
    learned = sum(len(round.draws[turn.batch].positions) for turn in round.turns if client.id in turn.learners)
    means = (client.memory.tensor(LOGGED) / learned).tolist()
    names = str(client.memory[LOGGED_NAMES]).split(",")
    del client.memory[LOGGED], client.memory[LOGGED_NAMES]
    losses = dict(zip(names, means, strict=True))
    if not all(map(math.isfinite, means)):
        values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise TrainingError(f"{client.work().where}: the loss is not finite ({values}); lower train.lr or set train.clip")
    return losses


# ---- the server's half


def said_schema(
    server: Server, client: int, shapes: Mapping[str, tuple[int, ...]], update: UpdateName = "simultaneous"
) -> dict[str, TensorSpec]:
    """What a peer says in this exchange: (B, *shape) float32 by name, or nothing."""
    round = plan(server, update)
    if not round.speaks(client, server.exchange):
        return {}
    B = len(round.draws[round.turns[server.exchange].batch].positions)
    return {name: TensorSpec((B, *shape), torch.float32, _space(name)) for name, shape in shapes.items()}


def check_said(server: Server, upload: Knowledge, update: UpdateName = "simultaneous") -> None:
    """Raise ValueError where a peer speaks of other samples, or of the same with other labels."""
    round = plan(server, update)
    if server.exchange < len(round.turns):
        expected = round.digest(round.turns[server.exchange].batch)
        if (found := upload.header.get("batch")) != expected:
            raise ValueError(f"it speaks of batch {found}, the others of {expected}: give all peers the same data and labels")


def gather(
    server: Server,
    uploads: Mapping[int, Knowledge],
    update: UpdateName = "simultaneous",
    beside: Mapping[str, Tensor] | None = None,
) -> Knowledge | Mapping[int, Knowledge]:
    """What all peers said of a batch, (K, B, ...) each, stacked by their id, to those whose turn it is to learn from it."""
    round, exchange = plan(server, update), server.exchange
    if exchange == len(round.turns):
        return Knowledge()
    before: Mapping[int, Said] = {} if round.is_new(exchange) else server.live("what peers said", dict)
    said = {peer: _of_the_batch(upload) or before[peer] for peer, upload in sorted(uploads.items())}
    server.set_live("what peers said", said)
    names = next(iter(said.values()), {})  # of nobody, where all who were to be heard are gone
    tensors = {name: torch.stack([each[name] for each in said.values()]) for name in names}  # (K, B, ...) each
    batch, learners = round.digest(round.turns[exchange].batch), round.turns[exchange].learners
    header = {"peers": ",".join(map(str, said)), "batch": batch}
    everything = Knowledge(tensors, {name: _space(name) for name in tensors}, header)
    if beside:
        everything = everything.with_tensors("embedding", {BESIDE + name: tensor for name, tensor in beside.items()})
    if learners >= uploads.keys():
        return everything
    nothing = Knowledge(header={"batch": batch})
    return {peer: everything if peer in learners else nothing for peer in uploads}


def _of_the_batch(upload: Knowledge) -> Said:
    return {name: tensor for name, tensor in upload.tensors.items() if not name.startswith(BESIDE)}


def _space(name: str) -> str:
    """What a tensor means that is said under this name."""
    return "logits" if name.startswith("logits") else "embedding"
