"""FedU: BYOL at the clients, who keep their own predictor while their training moves far. No labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from fedkd import Client, Embedder, Experiment, Knowledge, Needs, Node, NonNegative, Server, Share, Strategy
from fedkd.methods.contrastive import DivergenceAwarePredictor
from fedkd.methods.self_supervised import average, first_weights, global_encoder, train_by


@final
@dataclass(frozen=True)
class FedU(Strategy):
    """FedBYOL with a divergence-aware predictor update: the global predictor is taken only after a training that moved little.

    Paper: Zhuang et al., "Collaborative Unsupervised Visual Representation Learning from Decentralized Data", ICCV 2021, arXiv
    2108.06492; what the paper leaves open is as in EasyFL's code.
    What travels: encoder, projection head, predictor and buffers, down and up; |θ| elements each. At a client stay its online
    net, |θ| elements, its target net, encoder and projection, and the divergence of its last training.
    Deviations: FedSimCLR's, and those of ``fedkd.methods.contrastive.TargetNet`` and ``DivergenceAware``. EasyFL sends the
    target nets too, and does not use them.
    """

    momentum: Share = 0.99  # of the target net
    mu: NonNegative = 0.4  # the divergence from which on a client keeps its own predictor; 0.4 goes with a ResNet-18

    paper: ClassVar[str] = "Zhuang et al., ICCV 2021, arXiv 2108.06492"
    sends: ClassVar[str] = "weights and buffers of encoder, projection head and predictor, both ways"
    needs: ClassVar[Needs] = Needs(equal_nets=True, uses=("views", "representations"))

    @property
    def base(self) -> DivergenceAwarePredictor:
        """What clients descend."""
        return DivergenceAwarePredictor(self.momentum, self.mu)

    def check(self, experiment: Experiment) -> None:
        """Also what the base asks for."""
        self.needs.check(type(self).__name__, experiment)
        self.base.check(experiment)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return first_weights(server, self.base)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs, from the global weights and one of two predictors."""
        return train_by(client, broadcast, self.base)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return average(server, uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Embedder]:
        """The global encoder's features h, before the heads."""
        return global_encoder(node, broadcast, self.base)
