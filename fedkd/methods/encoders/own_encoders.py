"""Encoders that stay with their clients: each trains its own by a self-supervised base. No weights travel, nets may differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.predictors import Embedder
from fedkd.experiment.algorithm.train import fit
from fedkd.methods.contrastive import Base
from fedkd.methods.encoders.global_encoder import Objective, own_objective
from fedkd.nets import Net

#: A field that takes a number of epochs; 0 = train.epochs.
Epochs = Annotated[int, Field(ge=0)]


def own_net(client: Client, base: Base[Any], *heads: str) -> Net:
    """The client's own net with the base's heads and these: drawn for it alone, kept over the rounds."""
    return client.net(init="own", heads=(*base.heads, *heads), keep=True)


def train_own(client: Client, base: Base[Any], *heads: str, objective: Objective | None = None) -> dict[str, float]:
    """One local training of the client's own net, from where its last one ended. Returns the mean loss by parts.

    Args:
        client: whose samples; labels are not used.
        base: opens and closes the training.
        heads: of the net, beside the base's.
        objective: what is descended; default, the base's own loss.
    """
    net = own_net(client, base, *heads)
    state, descended = base.start(client, net), objective or own_objective(base)
    losses = fit(
        net, client.train, lambda net, batch: descended(net, batch, state), after_step=lambda: base.after_step(state, net)
    )
    base.finish(state, client, net)
    return losses


def own_encoder(node: Node, base: Base[Any], *heads: str) -> Mapping[str, Embedder]:
    """At a client the features h of its own encoder, before all heads; nothing at the server, as no net is global."""
    if not isinstance(node, Client):
        return {}
    net = own_net(node, base, *heads).eval()
    return {"encoder": Embedder(net.features, net)}
