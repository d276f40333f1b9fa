"""FedAvg: the weighted mean of the clients' weights."""

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
    Server,
    Strategy,
    broadcast_net,
    classifier,
    fit,
)
from fedkd.aggregate import weighted_mean
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class FedAvg(Strategy):
    """Clients train the global net for some epochs; the server averages what they return, weighted by sample counts.

    Paper: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
    arXiv 1602.05629, Algorithm 1.
    What travels: all weights and buffers, down and up; |θ| elements each.
    Deviations: the paper's nets have no BatchNorm; here its running statistics are averaged like weights and its
    integer counters are not (the largest is taken).
    """

    paper: ClassVar[str] = "McMahan et al., AISTATS 2017, arXiv 1602.05629"
    sends: ClassVar[str] = "weights and buffers, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return Knowledge.of("weights", server.net().state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of cross-entropy, from the global weights."""
        net, data = client.net(weights=broadcast.tensors), client.train.labelled()

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            return {"cross_entropy": batch.cross_entropy(net(batch.inputs))}

        losses = fit(net, data, loss)
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by n_k over the sum of the participants' n_k."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net, at the server and at every client."""
        return {"global": classifier(broadcast_net(node, broadcast))}
