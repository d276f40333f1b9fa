"""FedBYOL: BYOL at the clients, whose target nets stay with them, FedAvg at the server. No labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from fedkd import Client, Embedder, Experiment, Knowledge, Needs, Node, Server, Share, Strategy
from fedkd.methods.contrastive import BYOL
from fedkd.methods.self_supervised import average, first_weights, global_encoder, train_by


@final
@dataclass(frozen=True)
class FedBYOL(Strategy):
    """Clients train a net to predict what its moving average projects of another view; weights are averaged.

    Paper: Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, arXiv 2006.07733, federated by FedAvg as in the baseline of
    Han et al., "FedX", ECCV 2022, arXiv 2207.09158, and in EasyFL's code.
    What travels: encoder, projection head, predictor and buffers, down and up; |θ| elements each. At a client stays its target
    net, encoder and projection.
    Deviations: FedSimCLR's, and those of ``fedkd.methods.contrastive.BYOL``. EasyFL sends the target nets too, and does not
    use them.
    """

    momentum: Share = 0.99  # of the target net

    paper: ClassVar[str] = "Grill et al., NeurIPS 2020, arXiv 2006.07733, with FedAvg"
    sends: ClassVar[str] = "weights and buffers of encoder, projection head and predictor, both ways"
    needs: ClassVar[Needs] = Needs(equal_nets=True, uses=("views", "representations"))

    @property
    def base(self) -> BYOL:
        """What clients descend."""
        return BYOL(self.momentum)

    def check(self, experiment: Experiment) -> None:
        """Also what the base asks for."""
        self.needs.check(type(self).__name__, experiment)
        self.base.check(experiment)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return first_weights(server, self.base)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of BYOL, from the global weights."""
        return train_by(client, broadcast, self.base)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return average(server, uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Embedder]:
        """The global encoder's features h, before the heads."""
        return global_encoder(node, broadcast, self.base)
