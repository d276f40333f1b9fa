"""LG-FedAvg: clients average the classifier and keep the representation under it to themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from fedkd import Batch, Classifier, Client, Knowledge, Needs, Node, Server, Strategy, classifier, fit
from fedkd.aggregate import weighted_mean
from fedkd.methods.shared_classifier import check_classifiers, classifier_of, put_classifier, under_shared_classifier
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class LGFedAvg(Strategy):
    """FedAvg of the last layer alone: local representations, one global model on top of them.

    Paper: Liang et al., "Think Locally, Act Globally: Federated Learning with Local and Global Representations",
    arXiv 2001.01523 (NeurIPS 2019 workshop).
    What travels: the last layer of the nets, 4 (C D + C) bytes, down and up. Nets may differ, but not D, the width of
    their features, nor the shape of their last layer.
    Both parts are trained, by one optimiser, in each local step; the mean is weighted by sample counts. Nets of one
    architecture start equal, as in the authors' code. The headline is a client's encoder under the mean, as the
    authors' code evaluates it; "main" is its net as local training left it.
    Deviations (what the paper itself says is from memory): there the user chooses which layers are global. The authors'
    scripts share the last three of five for MNIST and, for CIFAR-10, two of five from the end of a list in which the
    convolutions stand last: there it is the lower layers that are shared, and all upper ones stay local. HtFLlib shares
    the last layer, which nets of several kinds can, and so does this. The authors start from the nets of a FedAvg run,
    average without weights, write the mean into the nets of all clients, and report each client's best round; here
    everybody starts untrained, a client takes up the mean when it next takes part, and no round is picked. The paper's
    adversarial representations, local self-supervision and ensembles for new clients are not here.
    """

    paper: ClassVar[str] = "Liang et al. 2020, arXiv 2001.01523"
    sends: ClassVar[str] = "weights of the last layer, both ways"
    needs: ClassVar[Needs] = Needs(labels=True)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The last layer as it is drawn."""
        check_classifiers(server)
        return Knowledge.of("weights", classifier_of(server.net(architecture=server.experiment.architectures[0])))

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of cross-entropy of the client's own encoder and the shared last layer."""
        net, data = client.net(keep=True), client.train.labelled()
        put_classifier(net, broadcast.tensors)

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            return {"cross_entropy": batch.cross_entropy(net(batch.inputs))}

        losses = fit(net, data, loss)
        return Knowledge.of("weights", classifier_of(net), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """At a client its encoder under the shared last layer, and its net as it was trained."""
        if not isinstance(node, Client):
            return {}
        net = node.net(keep=True)
        return {"shared_classifier": under_shared_classifier(node, net, broadcast), "main": classifier(net)}
