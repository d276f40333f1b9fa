"""Federated self-supervised learning: clients train an encoder by a base's objective, the server averages weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from fedkd.aggregate import weighted_mean
from fedkd.base.inputs import concatenate
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.predictors import Embedder, broadcast_net
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.train import Batch, fit
from fedkd.knowledge.knowledge import Knowledge
from fedkd.methods.contrastive import Base, Views
from fedkd.methods.encoders.similarity import compare_uploaded
from fedkd.nets import Net

#: The parts of the loss of a batch, of the net that is trained and what the base opened beside it.
Objective = Callable[[Net, Batch, Any], Mapping[str, Tensor]]


def first_weights(server: Server, base: Base[Any], *heads: str) -> Knowledge:
    """The shared initial weights of the net with the base's heads and these. Clients that cannot take part are named here."""
    base.check_clients(server)
    return Knowledge.of("weights", server.net(heads=(*base.heads, *heads)).state_dict())


def train_by(
    client: Client, broadcast: Knowledge, base: Base[Any], *heads: str, objective: Objective | None = None
) -> Knowledge:
    """One client's local training, from the broadcast weights to an upload of its own.

    Args:
        client: whose samples; labels are not used.
        broadcast: the global weights.
        base: opens and closes the training.
        heads: of the net, beside the base's.
        objective: what is descended; default, the base's own loss.
    """
    net = client.net(heads=(*base.heads, *heads), keep=base.keeps_net)
    base.receive(client, net, broadcast.tensors)
    state, descended = base.start(client, net), objective or own_objective(base)

    def loss(net: Net, batch: Batch) -> Mapping[str, Tensor]:
        return descended(net, batch, state)

    losses = fit(net, client.train, loss, after_step=lambda: base.after_step(state, net))
    base.finish(state, client, net)
    return Knowledge.of("weights", net.state_dict(), weight=client.samples, metrics=losses)


def own_objective(base: Base[Any]) -> Objective:
    """The base's loss of two views of each sample."""

    def objective(net: Net, batch: Batch, state: Any) -> Mapping[str, Tensor]:
        inputs = concatenate([batch.view(1), batch.view(2)])  # (2B, ...)
        return base.loss(state, net, Views(inputs, net.head("projection", net.features(inputs)), batch.ids))

    return objective


def average(server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
    """The mean of the clients' weights, by sample counts. How alike their encoders have become is reported first."""
    compare_uploaded(server, uploads)
    return weighted_mean(uploads)


def global_encoder(node: Node, broadcast: Knowledge, base: Base[Any], *heads: str) -> Mapping[str, Embedder]:
    """The features h of the global encoder, before all heads."""
    net = broadcast_net(node, broadcast, heads=(*base.heads, *heads))
    return {"encoder": Embedder(net.features, net)}
