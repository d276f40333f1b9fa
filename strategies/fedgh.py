"""FedGH: the server trains one classifier on all clients' mean features by class, and clients put it on their nets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import (
    Batch,
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    Positive,
    Server,
    Strategy,
    TensorSpec,
    classifier,
    fit,
)
from fedkd.losses import cross_entropy_loss
from fedkd.methods.prototypes import (
    check_prototypes,
    common_width,
    fit_on_prototypes,
    own_prototypes,
    prototype_schema,
)
from fedkd.methods.shared_classifier import check_classifiers, classifier_of, put_classifier, under_shared_classifier
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class FedGH(Strategy):
    """Clients keep their encoders; the classifier on top starts each round as the server's, which learned from all.

    Paper: Yi et al., "FedGH: Heterogeneous Federated Learning with Generalized Global Header", ACM Multimedia 2023,
    arXiv 2303.13137.
    What travels: C_k (4 D + 8) bytes up for each client and round, for the C_k classes that it holds: mean features,
    class ids, counts; the classifier down, 4 (C D + C), in the first round too. Nets may differ, but not D, the width
    of their features, nor the shape of their last layer.
    The server's loss is cross-entropy, each uploaded mean one sample of its class, train.batch_size in a step of plain
    SGD; its classifier goes on from the last round's. Means are of the trained net, in eval mode: one more pass over
    the client's samples.
    Nets of one architecture start equal, as in the authors' code. The headline is a client's encoder under the
    classifier that the server sent last, as HtFLlib reports it; "main" is the net as local training left it, as the
    authors' code does.
    Deviations: in the authors' code the optimiser holds the last client's net and not the classifier, which so stays
    as it was drawn (both scripts); here it is trained, as in the paper. There a client's mean is the mean over the
    means of its batches, the server takes a step for each of them, in order of clients and with momentum 0.9, and a
    client's first round starts from its own classifier.
    """

    server_epochs: Annotated[int, Field(ge=1)] = 1  # over the uploaded means, each round
    server_lr: Positive = 0.01  # of the server's SGD

    paper: ClassVar[str] = "Yi et al., ACM Multimedia 2023, arXiv 2303.13137"
    sends: ClassVar[str] = "mean features by class up, a trained classifier down"
    needs: ClassVar[Needs] = Needs(labels=True)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The classifier as it is drawn."""
        check_classifiers(server)
        return Knowledge.of("weights", classifier_of(server_net(server)))

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """As many classes as the client holds."""
        return prototype_schema(classes=server.classes, width=common_width(server))

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """Each class once, and all of the client's samples."""
        check_prototypes(upload)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of cross-entropy, under the server's classifier; then the client's class means, in eval mode."""
        net, data = client.net(keep=True), client.train.labelled()
        put_classifier(net, broadcast.tensors)

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            return {"cross_entropy": batch.cross_entropy(net(batch.inputs))}

        losses = fit(net, data, loss)
        return own_prototypes(net, data, classes=client.classes).to_knowledge(weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The classifier learns to tell the uploaded means apart."""
        net = server_net(server)

        def loss(net: Net, rows: Tensor, labels: Tensor) -> Tensor:
            return cross_entropy_loss(net.head("classifier", rows), labels)

        sgd = torch.optim.SGD(net.classifier.parameters(), lr=self.server_lr)
        fit_on_prototypes(server, net, uploads, loss, part="classifier", optimizer=sgd, epochs=self.server_epochs)
        return Knowledge.of("weights", classifier_of(net))

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """At a client its encoder under the shared classifier, and its net as trained; the server has no encoder."""
        if not isinstance(node, Client):
            return {}
        net = node.net(keep=True)
        return {"shared_classifier": under_shared_classifier(node, net, broadcast), "main": classifier(net)}


def server_net(server: Server) -> Net:
    """A net of the clients' of which the server uses the classifier alone, kept over the rounds."""
    return server.net("classifier", architecture=server.experiment.architectures[0], keep=True)
