"""FedSimCLR: SimCLR at the clients, FedAvg at the server. No labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from fedkd import Client, Embedder, Experiment, Knowledge, Needs, Node, Positive, Server, Strategy
from fedkd.methods.contrastive import SimCLR
from fedkd.methods.self_supervised import average, first_weights, global_encoder, train_by


@final
@dataclass(frozen=True)
class FedSimCLR(Strategy):
    """Clients train an encoder and a projection head by NT-Xent between two views of each image; weights are averaged.

    Paper: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv 2002.05709,
    federated by FedAvg as in the baseline of Han et al., "FedX", ECCV 2022, arXiv 2207.09158.
    What travels: encoder, projection head and buffers, down and up; |θ| elements each.
    Deviations from SimCLR, all as in FedX's repository: temperature 0.1, SGD, a 256-256 projection head without BatchNorm, and
    the views of the ``fedx`` preset unless ``data.views`` says otherwise. The optimiser is new each round, as there.
    """

    temperature: Positive = 0.1  # of NT-Xent

    paper: ClassVar[str] = "Chen et al., ICML 2020, arXiv 2002.05709, with FedAvg"
    sends: ClassVar[str] = "weights and buffers of encoder and projection head, both ways"
    needs: ClassVar[Needs] = Needs(equal_nets=True, uses=("views", "representations"))

    @property
    def base(self) -> SimCLR:
        """What clients descend."""
        return SimCLR(self.temperature)

    def check(self, experiment: Experiment) -> None:
        """Also what the base asks for."""
        super().check(experiment)
        self.base.check(experiment)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return first_weights(server, self.base)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of SimCLR, from the global weights."""
        return train_by(client, broadcast, self.base)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return average(server, uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Embedder]:
        """The global encoder's features h, before the projection head."""
        return global_encoder(node, broadcast, self.base)
