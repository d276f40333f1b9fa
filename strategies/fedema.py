"""FedEMA: BYOL at the clients, who mix the global net into their own, the less the farther their training moves. No labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from fedkd import Client, Embedder, Experiment, Knowledge, Needs, Node, NonNegative, Server, Share, Strategy
from fedkd.methods.contrastive import DivergenceAwareAverage
from fedkd.methods.self_supervised import average, first_weights, global_encoder, train_by


@final
@dataclass(frozen=True)
class FedEMA(Strategy):
    """FedBYOL in which a client goes on from ``lambda own + (1 - lambda) global``, lambda = min(1, scale * divergence).

    Paper: Zhuang et al., "Divergence-aware Federated Self-Supervised Learning", ICLR 2022, arXiv 2204.04385.
    What travels: encoder, projection head, predictor and buffers, down and up; |θ| elements each. At a client stay its online
    net, |θ| elements, its target net, encoder and projection, and its first and last divergence.
    The divergence is by default EasyFL's, how far the client's last training moved the kernels of its encoder; the paper's is
    the distance between the client's and the global encoder.
    Deviations: FedSimCLR's, and those of ``fedkd.methods.contrastive.DivergenceAwareAverage``, ``DivergenceAware`` and
    ``TargetNet``. EasyFL sends the target nets too, and does not use them.
    """

    momentum: Share = 0.99  # of the target net
    tau: Share = 0.7  # lambda at a client's first return
    scale: NonNegative = 0.0  # of the divergence; 0 = tau over the client's first one
    divergence: Literal["training", "global"] = "training"  # EasyFL's or the paper's

    paper: ClassVar[str] = "Zhuang et al., ICLR 2022, arXiv 2204.04385"
    sends: ClassVar[str] = "weights and buffers of encoder, projection head and predictor, both ways"
    needs: ClassVar[Needs] = Needs(equal_nets=True, uses=("views", "representations"))

    @property
    def base(self) -> DivergenceAwareAverage:
        """What clients descend."""
        return DivergenceAwareAverage(self.momentum, self.tau, self.scale, self.divergence)

    def check(self, experiment: Experiment) -> None:
        """Also what the base asks for."""
        self.needs.check(type(self).__name__, experiment)
        self.base.check(experiment)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return first_weights(server, self.base)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs, from a mean of the client's own and the global weights."""
        return train_by(client, broadcast, self.base)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return average(server, uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Embedder]:
        """The global encoder's features h, before the heads."""
        return global_encoder(node, broadcast, self.base)
