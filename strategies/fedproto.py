"""FedProto: clients exchange the mean feature of each class, so that nets of any kind share one feature space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
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
    TensorSpec,
    classifier,
    fit,
)
from fedkd.aggregate import masked_mean
from fedkd.losses import prototype_loss
from fedkd.methods.class_means import ClassMeans
from fedkd.methods.prototypes import Prototypes, check_prototypes, common_width, prototype_schema, stacked_prototypes
from fedkd.nets import Net

#: From a client's sample counts by class to how much it counts in the mean of that class.
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {"counts": lambda counts: counts, "uniform": lambda counts: counts > 0}


@final
@dataclass(frozen=True)
class FedProto(Strategy):
    """Cross-entropy plus the distance of each feature from its class's mean feature, itself a mean over clients.

    Paper: Tan et al., "FedProto: Federated Prototype Learning across Heterogeneous Clients", AAAI 2022, arXiv
    2105.00243.
    What travels: C_k (4 D + 8) bytes up for each client and round, for the C_k classes that it holds; C' (4 D + 8)
    down, for the C' classes that anyone held: prototypes, class ids, and of how many each is the mean. Nets may differ,
    but not D, the width of their features.
    The headline is the nearest prototype of all, as in the paper's equation. The official code's numbers are of the
    nearest among the classes that the client has samples of, on test samples of these: ``client_own_classes_accuracy``
    is that. The net's own classifier, "main", stands beside both, and in their place before there are prototypes. As in
    the official code the distance is the mean squared difference of elements: a lambda for the squared distance is D
    times smaller.
    Prototypes are means over the training steps of the last local epoch, as in the official code: no pass over the
    samples is added, but their features are of train mode, and of weights on the move.
    Deviations: the official code averages uniformly over owners where the paper counts samples: ``weighting`` chooses.
    Samples whose class has no prototype are left out of the term's mean; there they enter it as zeros. A class that no
    participant of a round holds has no prototype in the next. There the last, smaller batch of an epoch is dropped, and
    right answers are counted on from client to client; here a client's are its own.
    """

    prototype_weight: NonNegative = 1.0  # the paper's lambda; its README has 0.1 for CIFAR-10
    weighting: Literal["counts", "uniform"] = "counts"  # the paper's equation 6, or the official code

    paper: ClassVar[str] = "Tan et al., AAAI 2022, arXiv 2105.00243"
    sends: ClassVar[str] = "mean features by class, both ways"
    needs: ClassVar[Needs] = Needs(labels=True)

    def first_broadcast(self, server: Server) -> Knowledge:
        """No prototypes yet."""
        none = torch.zeros(server.classes, dtype=torch.int32)
        return Prototypes(torch.zeros(server.classes, common_width(server)), none).to_knowledge()

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """As many classes as the client holds."""
        return prototype_schema(classes=server.classes, width=common_width(server))

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """Each class once, and all of the client's samples."""
        check_prototypes(upload)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs on the client's own net, kept in its memory; the last one's features make its prototypes."""
        net, data = client.net(init="own", keep=True), client.train.labelled()
        taught = Prototypes.of(broadcast, classes=client.classes, device=client.device)
        own = ClassMeans(classes=client.classes, width=taught.values.shape[1], device=client.device)

        def loss(net: Net, batch: Batch, taught: Prototypes, own: ClassMeans, epoch: int) -> dict[str, Tensor]:
            features = net.features(batch.inputs)  # (B, D)
            if len(own) == epoch:  # it is over
                own.clear()
            own.add(features, batch.labels)
            distance = prototype_loss(features, taught.values, batch.labels, taught.known)
            logits = net.head("classifier", features)
            return {
                "cross_entropy": batch.cross_entropy(logits),
                "prototype": self.prototype_weight * distance,
            }

        losses = fit(net, data, loss, given=(taught, own, len(data)))
        return Prototypes(own.values(), own.counts()).to_knowledge(weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean of each class over the participants that hold it."""
        values, counts = stacked_prototypes(uploads, classes=server.classes)
        means, owners = masked_mean(values, WEIGHTS[self.weighting](counts))  # of (K, C, D) and (K, C)
        return Prototypes(means, owners).to_knowledge()

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """At a client the nearest prototype, of all and of its own classes, and its net's classifier."""
        if not isinstance(node, Client):
            return {}
        net = node.net(init="own", keep=True)
        held, main = Prototypes.of(broadcast, classes=node.classes, device=node.device), {"main": classifier(net)}
        counts = node.train.labelled().samples.label_counts().to(node.device)
        own = replace(held, counts=held.counts * (counts > 0))
        nearest = {"prototype": Classifier(lambda inputs: held.nearest(net.features(inputs)))} | main
        among_own = {"own_classes": Classifier(lambda inputs: own.nearest(net.features(inputs)))}
        return (nearest | (among_own if bool(own.known.any()) else {})) if bool(held.known.any()) else main
