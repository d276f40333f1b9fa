"""MOON: FedAvg whose clients draw their features to the global net's and away from their own previous net's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from fedkd import (
    Batch,
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Positive,
    Server,
    Strategy,
    broadcast_net,
    fit,
    load,
)
from fedkd.aggregate import weighted_mean
from fedkd.base.inputs import Inputs
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import model_contrastive_loss
from fedkd.nets import Net

HEADS = ("projection", "projected_classifier")


@final
@dataclass(frozen=True)
class MOON(Strategy):
    """Cross-entropy plus a contrast of projections: the received net's is positive, the previous one's negative.

    Paper: Li et al., "Model-Contrastive Federated Learning", CVPR 2021, arXiv 2103.16257, Algorithm 1.
    What travels: encoder, both heads and buffers, down and up; |θ| elements each. The previous net, as large, stays in
    the client's memory; at first it is the shared initial one, so in a client's first round, if that is the run's
    first, the term is the constant mu log 2.
    As in the paper the classifier sits on the projection. Deviations: the projection is this package's, of 256 units in
    both layers. One previous net is kept, the official code's default.
    """

    mu: NonNegative = 5.0  # weight of the contrastive term, 5 in the official README; the paper tries 0.1, 1, 5 and 10
    temperature: Positive = 0.5  # tau, divides cosine similarities

    paper: ClassVar[str] = "Li et al., CVPR 2021, arXiv 2103.16257"
    sends: ClassVar[str] = "weights and buffers of encoder and both heads, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = {"temperature": (Unless(mu=0),)}

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return Knowledge.of("weights", server.net(heads=HEADS).state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs from the global weights, between two frozen nets."""
        net = client.net(heads=HEADS, weights=broadcast.tensors)
        received = broadcast_net(client, broadcast, heads=HEADS).requires_grad_(False)
        previous = client.net("previous", heads=HEADS, keep=True).eval().requires_grad_(False)

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            with torch.no_grad():
                positive, negative = (project(each, batch.inputs) for each in (received, previous))
            projected = project(net, batch.inputs)
            contrast = model_contrastive_loss(projected, positive, negative, temperature=self.temperature)
            return {
                "cross_entropy": batch.cross_entropy(net.head("projected_classifier", projected)),
                "model_contrastive": self.mu * contrast,
            }

        data = client.train.labelled()
        losses = fit(net, data, loss)
        load(previous, net.state_dict())
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net, at the server and at every client."""
        net = broadcast_net(node, broadcast, heads=HEADS)
        return {"global": Classifier(lambda inputs: net.head("projected_classifier", project(net, inputs)))}


def project(net: Net, inputs: Inputs) -> Tensor:
    """What the contrast compares and the classifier reads: (B, 256)."""
    return net.head("projection", net.features(inputs))
