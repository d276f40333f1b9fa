"""Peers in lockstep: all take the same mini-batches, and exchange their outputs on each before anybody learns from it.

A round of n turns has n + 1 exchanges. In exchange e a peer learns from the outputs of all peers for the batch of turn e - 1,
then uploads its own for the batch of turn e: the first exchange only uploads, the last only learns, nothing but memory crosses
a round. A peer holds its own outputs with their graph, so that learning costs a backward pass and no second forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from fedkd.base.errors import TrainingError
from fedkd.base.randomness import derive, seeded
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import Batch
from fedkd.knowledge.knowledge import Knowledge, TensorSpec
from fedkd.methods.peers.all_outputs import AllOutputs, PeerOutputs
from fedkd.methods.peers.apart import Apart, in_order, step_each
from fedkd.methods.peers.turns import Plan, UpdateName, plan

#: Where a peer's memory holds the net's buffers from before the pass it holds, and its losses of the round so far.
BUFFERS, LOGGED, LOGGED_NAMES = "lockstep/buffers/", "lockstep/logged", "lockstep/logged names"
#: Tensors that are not of the exchange's batch, of peers or of the server, have names that begin so.
BESIDE = "beside/"


@final
@dataclass(frozen=True)
class Peer:
    """A client as a peer: what it trains, what it computes of a batch, and how it learns from the outputs of all.

    Args:
        net: all that is trained, in one module; kept in the client's memory.
        forward: outputs (B, ...) by name, with their graph, from one forward pass over the batch.
        loss: parts of the loss by name, from this peer's outputs, those of all peers, and the batch; the same names each time.
        weight: of distillation, as it is reported.
        withheld: names of outputs that are for this peer's own loss only, and are not uploaded.
        beside: what is uploaded beside the outputs, by a name that begins with ``BESIDE``: logits of other samples.
        optimizer: makes one for each step; default, the settings', kept in the client's memory.
        apart: what other optimisers descend, by the name under which each is kept.
    """

    net: nn.Module
    forward: Callable[[Batch], PeerOutputs]
    loss: Callable[[PeerOutputs, AllOutputs, Batch], Mapping[str, Tensor]]
    weight: float = 1.0
    withheld: tuple[str, ...] = ()
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    optimizer: Callable[[], torch.optim.Optimizer] | None = None
    apart: Mapping[str, Apart] = field(default_factory=dict)


# ---- the client's half


def take_turn(
    client: Client, broadcast: Knowledge, peer: Peer, update: UpdateName = "simultaneous", over: Plan | None = None
) -> Knowledge:
    """One exchange at a peer: learn from the last turn's batch, if it was this peer's turn, then upload outputs for the next.

    The batches are ``over``'s; by default of the clients' own samples, which are the same at all.

    Raises:
        ValueError: the broadcast is about another batch.
        TrainingError: there is nothing to learn from, or an output is not finite, or the loss of the round was not.
    """
    round, exchange = over or plan(client, update), client.exchange
    if not round.draws:
        raise TrainingError(f"{client.work().where}: there are no labelled samples to train on")
    client.live("peer in train mode", peer.net.train)  # set where it is not, as walking a deep net costs
    if not exchange:
        begin(client, peer.net)
    if exchange and client.id in round.turns[exchange - 1].learners:
        _learn(client, broadcast, peer, round)
    if exchange == len(round.turns):
        return Knowledge(weight=len(round.data), metrics=_report(client, round) | {"distillation_weight": peer.weight})
    outputs = _compute(client, peer, round) if round.uploads(client.id, exchange) else {}
    tensors = {name: tensor.detach().float() for name, tensor in outputs.items() if name not in peer.withheld}
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise TrainingError(f"{client.work().where}: its {name} are not finite; lower train.lr or set train.clip")
    header = {"batch": round.digest(round.turns[exchange].batch)}
    spaces = {name: _space(name) for name in tensors} | dict.fromkeys(peer.beside, "logits")
    return Knowledge({**tensors, **peer.beside}, spaces, header, weight=len(round.data))


def _is_finite(tensor: Tensor) -> bool:
    """In one pass: the extremes are NaN where any number is."""
    return not tensor.numel() or all(math.isfinite(extreme.item()) for extreme in tensor.aminmax())


def begin(client: Client, net: nn.Module) -> None:
    """Forget, at a round's beginning, what a round that this peer left has left: losses, and a pass without a step."""
    _restore_buffers(client, net)
    client.memory.store(BUFFERS, {})
    for name in (LOGGED, LOGGED_NAMES):
        client.memory.pop(name, None)


def _compute(client: Client, peer: Peer, round: Plan) -> PeerOutputs:
    """A forward pass. It is held if this peer is still to learn from it; else it leaves no trace in BatchNorm's statistics."""
    if not round.will_learn(client.id, client.exchange):
        with torch.no_grad(), _buffers_untouched(peer.net):
            return _forward(client, peer, round, client.exchange)[1]
    for name, buffer in peer.net.named_buffers():
        client.memory[BUFFERS + name] = buffer.clone()  # on its device, as it is let go of after the step
    held = _forward(client, peer, round, client.exchange)
    client.set_live("held pass", held)
    return held[1]


def _forward(client: Client, peer: Peer, round: Plan, exchange: int) -> tuple[Batch, PeerOutputs]:
    number = round.turns[exchange].batch
    batch, seed = round.batch(number), derive(client.experiment.seed, client.round, client.name, "pass", number)
    with seeded(seed), client.work().autocast():  # dropout draws the same when a pass is repeated
        return batch, peer.forward(batch)


def _learn(client: Client, broadcast: Knowledge, peer: Peer, round: Plan) -> None:
    number = round.turns[client.exchange - 1].batch
    if broadcast.header.get("batch") != round.digest(number):
        raise ValueError(f"the broadcast speaks of batch {broadcast.header.get('batch')}, not of {round.digest(number)}")
    optimizer = peer.optimizer() if peer.optimizer else client.optimizer("peer", peer.net)
    work = round.data.work
    batch, outputs = client.live("held pass", lambda: _repeat(client, peer, round))
    with work.autocast():
        parts = peer.loss(outputs, _unpack(client, broadcast), batch)
    client.memory.store(BUFFERS, {})
    logged = step_each(client, parts, optimizer, peer.apart, work).double() * len(batch)  # (parts + 1,)
    before = client.memory.tensor(LOGGED).to(logged.device) if LOGGED in client.memory else 0  # memory may have lain on the CPU
    client.memory[LOGGED] = logged + before
    client.memory[LOGGED_NAMES] = ",".join([*in_order(parts, peer.apart), "loss"])


def _repeat(client: Client, peer: Peer, round: Plan) -> tuple[Batch, PeerOutputs]:
    """The pass again, on a grid that forgot it, with the buffers that it began with: their statistics move once."""
    _restore_buffers(client, peer.net)
    return _forward(client, peer, round, client.exchange - 1)


def _restore_buffers(client: Client, net: nn.Module) -> None:
    for name, before in client.memory.under(BUFFERS).items():
        net.get_buffer(name).copy_(before)


@contextmanager
def _buffers_untouched(net: nn.Module) -> Iterator[None]:
    """Put the buffers back after the block."""
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    yield
    for name, buffer in net.named_buffers():
        buffer.copy_(before[name])


def _unpack(client: Client, broadcast: Knowledge) -> AllOutputs:
    ids = tuple(int(peer) for peer in str(broadcast.header["peers"]).split(",") if peer)
    tensors = {name: tensor.to(client.device) for name, tensor in broadcast.tensors.items()}
    beside = {name.removeprefix(BESIDE): tensor for name, tensor in tensors.items() if name.startswith(BESIDE)}
    return AllOutputs(ids, client.id, {name: t for name, t in tensors.items() if not name.startswith(BESIDE)}, beside)


def _report(client: Client, round: Plan) -> dict[str, float]:
    """The means of the losses over the samples that this peer learned from; memory lets go of them."""
    if LOGGED not in client.memory:
        return {}
    learned = sum(len(round.draws[turn.batch].positions) for turn in round.turns if client.id in turn.learners)
    means = (client.memory.tensor(LOGGED) / learned).tolist()
    losses = dict(zip(str(client.memory[LOGGED_NAMES]).split(","), means, strict=True))
    del client.memory[LOGGED], client.memory[LOGGED_NAMES]
    if not all(map(math.isfinite, means)):
        values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise TrainingError(f"{client.work().where}: the loss is not finite ({values}); lower train.lr or set train.clip")
    return losses


# ---- the server's half


def outputs_schema(
    server: Server,
    client: int,
    shapes: Mapping[str, tuple[int, ...]],
    update: UpdateName = "simultaneous",
    over: Plan | None = None,
) -> dict[str, TensorSpec]:
    """What a peer uploads in this exchange: (B, *shape) float32 by name, or nothing."""
    round = over or plan(server, update)
    if not round.uploads(client, server.exchange):
        return {}
    B = len(round.draws[round.turns[server.exchange].batch].positions)
    return {name: TensorSpec((B, *shape), torch.float32, _space(name)) for name, shape in shapes.items()}


def check_batch(server: Server, upload: Knowledge, update: UpdateName = "simultaneous", over: Plan | None = None) -> None:
    """Raise ValueError where a peer's outputs are for other samples, or for the same with other labels."""
    round = over or plan(server, update)
    if server.exchange < len(round.turns):
        expected = round.digest(round.turns[server.exchange].batch)
        if (batch := upload.header.get("batch")) != expected:
            raise ValueError(f"it speaks of batch {batch}, the others of {expected}: give all peers the same data and labels")


def gather(
    server: Server,
    uploads: Mapping[int, Knowledge],
    update: UpdateName = "simultaneous",
    beside: Mapping[str, Tensor] | None = None,
) -> Knowledge | Mapping[int, Knowledge]:
    """The outputs of all peers for a batch, (K, B, ...) each, in order of their id, to those whose turn it is to learn."""
    round, exchange = plan(server, update), server.exchange
    if exchange == len(round.turns):
        return Knowledge()
    before: Mapping[int, PeerOutputs] = {} if round.is_new(exchange) else server.live("outputs of peers", dict)
    outputs = {peer: _of_the_batch(upload) or before[peer] for peer, upload in sorted(uploads.items())}
    server.set_live("outputs of peers", outputs)
    names = next(iter(outputs.values()), {})  # of nobody, where all whose outputs were due are gone
    tensors = {name: torch.stack([each[name] for each in outputs.values()]) for name in names}  # (K, B, ...) each
    batch, learners = round.digest(round.turns[exchange].batch), round.turns[exchange].learners
    peers = ",".join(map(str, outputs))
    everything = Knowledge(tensors, {name: _space(name) for name in tensors}, {"peers": peers, "batch": batch})
    if beside:
        everything = everything.with_tensors("embedding", {BESIDE + name: tensor for name, tensor in beside.items()})
    if learners >= uploads.keys():
        return everything
    return {peer: everything if peer in learners else Knowledge(header={"batch": batch}) for peer in uploads}


def _of_the_batch(upload: Knowledge) -> PeerOutputs:
    return {name: tensor for name, tensor in upload.tensors.items() if not name.startswith(BESIDE)}


def _space(name: str) -> str:
    """What a tensor of this name means."""
    return "logits" if name.startswith("logits") else "embedding"
