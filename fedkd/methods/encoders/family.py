"""The family of strategies that average one self-supervised encoder: what all of them do alike; a paper's own is its base."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedkd.engine.strategy import Strategy
from fedkd.experiment.algorithm.algorithm import Needs
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.predictors import Embedder
from fedkd.experiment.algorithm.server import Server
from fedkd.experiment.algorithm.settings import Settings
from fedkd.knowledge.knowledge import Knowledge
from fedkd.methods.contrastive import Base
from fedkd.methods.encoders.global_encoder import average, first_weights, global_encoder, train_by


@dataclass(frozen=True)
class GlobalEncoderStrategy(Strategy):
    """Clients train an encoder by a self-supervised base, the server averages weights as FedAvg does. No labels.

    A subclass gives the base and its hyperparameters. What is concrete here, no subclass overrides.
    """

    needs: ClassVar[Needs] = Needs(equal_nets=True, uses=("views", "representations"))

    @abstractmethod
    def build_base(self) -> Base[Any]:
        """What clients descend: one of ``fedkd.methods.contrastive``, with this strategy's settings."""

    def check(self, experiment: Settings) -> None:
        """Also what the base asks for."""
        self.needs.check(type(self).__name__, experiment)
        self.build_base().check(experiment)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights. A client that cannot take part is named here."""
        return first_weights(server, self.build_base())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of the base, from the global weights, or what the base makes of these and the client's own."""
        return train_by(client, broadcast, self.build_base())

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return average(server, uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Embedder]:
        """The global encoder's features h, before all heads."""
        return global_encoder(node, broadcast, self.build_base())
