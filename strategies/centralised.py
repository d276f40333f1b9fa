"""Centralised training: all samples at one place. The bound that no federation is expected to pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from fedkd import Classifier, Client, Knowledge, Needs, Node, Server, Strategy, TensorSpec, classifier, load, predict
from fedkd.experiment.algorithm.conditions import Always, Idle
from fedkd.losses import cross_entropy_loss
from fedkd.methods.public_distillation import train_on_labels
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class Centralised(Strategy):
    """The server trains one net on the training samples of all clients, ``train.epochs`` a round. No federation at all.

    Paper: none; the upper bound of them all.
    What travels: nothing up (0 bytes): the server is given the samples, which is the point of the baseline. Down go the
    net's weights and buffers, |θ| elements a client and round, for clients to score it on their own samples; nothing
    rests on them. The optimiser is new each round, as at clients of FedAvg. Clients train nothing; the loss of a round
    is that of the net as they got it, on their own training samples. Public and validation samples stay out of
    training, so that it sees exactly what the clients of other strategies see together.
    """

    paper: ClassVar[str] = "none (upper bound)"
    sends: ClassVar[str] = "nothing up, weights and buffers down to be evaluated"
    needs: ClassVar[Needs] = Needs(labels=True, pooled_data=True, uses=("server_net",))
    is_baseline: ClassVar[bool] = True
    idle: ClassVar[Idle] = {"labels": (Always("no client trains a net"),)}

    def first_broadcast(self, server: Server) -> Knowledge:
        """The initial weights."""
        return Knowledge.of("weights", _net(server).state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Only a measurement: the cross-entropy of the received net on this client's training samples."""
        net, data = _net(client), client.train.labelled()
        load(net, broadcast.tensors)
        logits = predict(net.eval(), data.samples, data.work)  # (M, C)
        loss = float(cross_entropy_loss(logits, data.samples.labels[data.samples.indices]))
        return Knowledge(weight=len(data), metrics={"cross_entropy": loss, "loss": loss})

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """Epochs of cross-entropy over everybody's samples, whoever took part."""
        net = _net(server)
        server.report(train_on_labels(net, server.split(server.federation.train).labelled()))
        return Knowledge.of("weights", net.state_dict())

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The one net, everywhere."""
        net = _net(node)
        load(net, broadcast.tensors)
        return {"server": classifier(net)}

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """No tensors."""
        return {}


def _net(node: Node) -> Net:
    """The server's net; clients build one like it to score it."""
    architecture = node.experiment.server_net or node.experiment.architectures[0]
    return node.net("server", architecture=architecture, keep=isinstance(node, Server))
