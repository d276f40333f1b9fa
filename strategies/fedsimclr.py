"""FedSimCLR: SimCLR at the clients, FedAvg at the server. No labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from fedkd import Batch, Client, Embedder, Knowledge, Node, Positive, Server, Strategy, broadcast_net, fit, load
from fedkd.aggregate import weighted_mean
from fedkd.contrastive import SimCLR, Views
from fedkd.nets import Net

HEADS = ("projection",)


@final
@dataclass(frozen=True)
class FedSimCLR(Strategy):
    """Clients train an encoder and a projection head by NT-Xent between two views of each image; weights are averaged.

    Paper: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv 2002.05709,
    federated by FedAvg as in the baseline of Han et al., "FedX", ECCV 2022, arXiv 2207.09158.
    What travels: encoder, projection head and buffers, down and up; |θ| elements each.
    Deviations from SimCLR, all as in FedX's repository: temperature 0.1, SGD, a 256-256 projection head without BatchNorm, and
    the views of the ``fedx`` preset unless ``data.views`` says otherwise.
    """

    temperature: Positive = 0.1  # of NT-Xent

    paper: ClassVar[str] = "Chen et al., ICML 2020, arXiv 2002.05709, with FedAvg"
    sends: ClassVar[str] = "weights and buffers of encoder and projection head, both ways"

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return Knowledge.of("weights", server.net(heads=HEADS).state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of SimCLR, from the global weights."""
        net, base = client.net(heads=HEADS), SimCLR(self.temperature)
        load(net, broadcast.tensors)
        state = base.start(client, net)

        def loss(net: Net, batch: Batch) -> Mapping[str, Tensor]:
            images = torch.cat([batch.view(1), batch.view(2)])  # (2B, C, H, W)
            return base.loss(state, Views(*net.head("projection", net.features(images)).chunk(2)))

        losses = fit(net, client.train, loss, after_step=lambda: base.after_step(state, net))
        return Knowledge.of("weights", net.state_dict(), weight=client.samples, metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Embedder]:
        """The global encoder's features h, before the projection head."""
        return {"encoder": Embedder(broadcast_net(node, broadcast, heads=HEADS).features)}
