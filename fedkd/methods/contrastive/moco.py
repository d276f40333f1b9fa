"""MoCo: contrast with a queue of past keys, which a slowly moving copy of the encoder computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.fields import Positive, Share
from fedkd.experiment.algorithm.settings import Settings
from fedkd.losses import info_nce_loss
from fedkd.methods.contrastive.base import Base, Views
from fedkd.methods.contrastive.finite import is_finite
from fedkd.nets import Net, load, move_towards
from fedkd.nets.heads import EMBEDDING

KEY_HEADS = ("projection",)


class Queue:
    """The last ``size`` keys, unit rows, oldest overwritten first; at first random ones."""

    def __init__(self, keys: Tensor, oldest: int) -> None:
        self.keys = keys  # (Q, D)
        self.oldest = oldest

    @classmethod
    def of(cls, client: Client, size: int) -> Queue:
        """As the client's memory keeps it, else drawn for this client alone."""
        kept: Any = client.memory.get("queue")
        if kept is not None and len(kept) == size:
            return cls(kept.to(client.device, copy=True), int(client.memory["queue_oldest"]))
        drawn = torch.randn(size, EMBEDDING, generator=client.lasting_rng("queue"))
        return cls(F.normalize(drawn, dim=1).to(client.device), 0)

    def add(self, keys: Tensor) -> None:
        """Put keys (n, D) in the places of the oldest; of more than Q the last Q."""
        keys = keys[-len(self.keys) :]
        places = (self.oldest + torch.arange(len(keys), device=keys.device)) % len(self.keys)
        self.keys[places] = keys
        self.oldest = (self.oldest + len(keys)) % len(self.keys)

    def keep(self, client: Client) -> None:
        """Write a copy to the client's memory: 4 D Q bytes."""
        client.memory["queue"], client.memory["queue_oldest"] = self.keys.to("cpu", copy=True), self.oldest


@dataclass(frozen=True, eq=False)
class MoCoState:
    """The key encoder and the queue of one local training."""

    key: Net
    queue: Queue


@final
@dataclass(frozen=True)
class MoCo(Base[MoCoState]):
    """He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, arXiv 1911.05722.

    Each view is the query once, and the other view's key its positive; both directions count half. The key encoder, and the
    queue of its keys, stay at the client over the rounds. Deviations: no shuffling of BatchNorm, which takes several devices;
    a short queue, as a client has few samples, and a queue that outlasts an epoch holds a sample's own past as a negative
    (4096 keys in EasyFL's code, whose clients have 10,000). Beside other terms that forward more images in one pass, as FedX's
    anchors, these share the queries' BatchNorm batch.
    """

    temperature: Positive = 0.1  # of InfoNCE; 0.07 in the paper, 0.1 wherever FedX's code has a temperature
    queue: Annotated[int, Field(ge=1)] = 256  # keys of the past; a multiple of the 2 train.batch_size that a step adds
    momentum: Share = 0.99  # of the key encoder
    resync: bool = False  # whether the key encoder starts each round as the received net (EasyFL's code), not as it was left

    def check(self, experiment: Settings) -> None:
        """The queue holds whole steps, as MoCo's does: all keys of a step leave it together."""
        keys = 2 * experiment.train.batch_size
        if self.queue % keys:
            nearest = max(keys, round(self.queue / keys) * keys)
            raise InputError(
                f"strategy: a queue of {self.queue} is no multiple of the {keys} keys that a step adds (2 train.batch_size): "
                f"set queue to {nearest}"
            )

    def start(self, client: Client, net: Net) -> MoCoState:
        """The key encoder, from the net where the client has none yet, and the queue."""
        first = self.resync or "queue" not in client.memory
        key = client.net("key", heads=KEY_HEADS, keep=not self.resync).requires_grad_(False)
        if first:
            query = net.state_dict()
            load(key, {name: query[name] for name in key.state_dict()})
        return MoCoState(key.train(), Queue.of(client, self.queue))

    def loss(self, state: MoCoState, net: Net, views: Views) -> Mapping[str, Tensor]:
        """InfoNCE of each view against the other's key and the queue. Gradient: through the queries only."""
        with torch.no_grad():
            keys = F.normalize(state.key.head("projection", state.key.features(views.inputs)).float(), dim=1)  # (2B, D)
        positives = keys.roll(len(keys) // 2, 0)  # the other view's
        loss = info_nce_loss(views.projected, positives, state.queue.keys, temperature=self.temperature)
        state.queue.add(keys)
        return {"local_contrastive": loss}

    def after_step(self, state: MoCoState, net: Net) -> None:
        """The key encoder follows; its BatchNorm statistics are its own."""
        move_towards(state.key.encoder, net.encoder, 1 - self.momentum)
        move_towards(state.key.heads["projection"], net.heads["projection"], 1 - self.momentum)

    def finish(self, state: MoCoState, client: Client, net: Net) -> None:
        """The queue, for the next time; a training that ends in weights that are not finite leaves none, and is forgotten."""
        if is_finite(net):
            state.queue.keep(client)
        else:
            client.memory.pop("queue", None)
