"""FedProx: FedAvg whose clients are held near the global weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from fedkd import (
    Batch,
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Server,
    Strategy,
    broadcast_net,
    classifier,
    fit,
)
from fedkd.aggregate import weighted_mean
from fedkd.losses import proximal_term
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class FedProx(Strategy):
    """Cross-entropy plus (mu/2) times the squared distance to the weights received this round.

    Paper: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv 1812.06127, Algorithm 2.
    What travels: all weights and buffers, down and up; |θ| elements each, as in FedAvg.
    Deviations: the paper samples clients in proportion to n_k and averages them plainly; here the draw is uniform and
    the mean weighted by n_k, as in FedAvg. The term runs over trainable parameters; BatchNorm's statistics are averaged
    as in FedAvg.
    """

    mu: NonNegative = 0.01  # weight of the proximal term; the paper tries 0.001, 0.01, 0.1 and 1

    paper: ClassVar[str] = "Li et al., MLSys 2020, arXiv 1812.06127"
    sends: ClassVar[str] = "weights and buffers, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return Knowledge.of("weights", server.net().state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs from the global weights, with the proximal term."""
        net = client.net(weights=broadcast.tensors)
        reference = {name: tensor.to(client.device) for name, tensor in broadcast.tensors.items()}

        def loss(net: Net, batch: Batch, reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {
                "cross_entropy": batch.cross_entropy(net(batch.inputs)),
                "proximal": self.mu * proximal_term(net, reference),
            }

        data = client.train.labelled()
        losses = fit(net, data, loss, given=(reference,))
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net, at the server and at every client."""
        return {"global": classifier(broadcast_net(node, broadcast))}
