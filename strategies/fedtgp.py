"""FedTGP: the server trains a prototype for each class so that they lie apart, and clients' features go to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedkd import (
    Batch,
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Positive,
    Server,
    Strategy,
    TensorSpec,
    classifier,
    fit,
)
from fedkd.aggregate import masked_mean
from fedkd.losses import cross_entropy_loss, prototype_loss
from fedkd.methods.prototypes import (
    Prototypes,
    check_prototypes,
    common_width,
    fit_on_prototypes,
    own_prototypes,
    prototype_schema,
    stacked_prototypes,
)
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class FedTGP(Strategy):
    """FedProto whose prototypes are no means: the server learns them, by contrast, from those that clients upload.

    Paper: Zhang et al., "FedTGP: Trainable Global Prototypes with Adaptive-Margin-Enhanced Contrastive Learning for
    Data and Model Heterogeneity in Federated Learning", AAAI 2024, arXiv 2401.03230.
    What travels: C_k (4 D + 8) bytes up for each client and round, for the C_k classes that it holds: mean features,
    class ids, counts; 4 C D down, nothing in the first round. Nets may differ, but not D, the width of their features.
        client: CE + lambda MSE(f(x), P_y)
        server: CE of -(|p - P_c| + margin [c = y]) over all classes c, for each uploaded prototype p of class y
        margin: the least distance of each class's mean prototype to another's, of these the largest, at most tau
    P = net(embeddings), Linear -> ReLU -> Linear of width D, kept at the server over the rounds and trained by plain
    SGD, with train.batch_size uploaded prototypes a step. Means are of the trained net, in eval mode: one more pass
    over the client's samples.
    The headline is the nearest of all C prototypes, as in the official code, those of classes that the client, or
    anybody, never had among them. The net's own classifier, "main", stands beside it, and in its place before there are
    prototypes; the authors were asked which of the two they report (issue 6 of FedTGP).
    Deviations: distances are computed from differences. The official code takes the root of expanded squares, which is
    not a number where rounding makes these negative, as it does for about a third of equal points. Where clients hold
    only one class the margin is tau, as it is there. The server's rate there is the clients'. There a client takes its
    means before it stores the net that it has trained, so of the net as the round before left it.
    """

    prototype_weight: NonNegative = 10.0  # lambda; the official command's, whose default is 1
    margin_limit: NonNegative = 100.0  # tau
    server_epochs: Annotated[int, Field(ge=1)] = 100  # over the uploaded prototypes, each round
    server_lr: Positive = 0.01  # of the server's SGD

    paper: ClassVar[str] = "Zhang et al., AAAI 2024, arXiv 2401.03230"
    sends: ClassVar[str] = "mean features by class up, trained prototypes down"
    needs: ClassVar[Needs] = Needs(labels=True)

    def first_broadcast(self, server: Server) -> Knowledge:
        """No prototypes yet: none of 0 rows, which tell their width."""
        return Knowledge.of("embedding", {"prototypes": torch.zeros(0, common_width(server))})

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """As many classes as the client holds."""
        return prototype_schema(classes=server.classes, width=common_width(server))

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """Each class once, and all of the client's samples."""
        check_prototypes(upload)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs on the client's own net, kept in its memory; then its class means, in eval mode."""
        net, data = client.net(init="own", keep=True), client.train.labelled()

        def loss(net: Net, batch: Batch, taught: Prototypes) -> dict[str, Tensor]:
            features = net.features(batch.inputs)  # (B, D)
            distance = prototype_loss(features, taught.values, batch.labels, taught.known)
            return {
                "cross_entropy": batch.cross_entropy(net.head("classifier", features)),
                "prototype": self.prototype_weight * distance,
            }

        losses = fit(net, data, loss, given=(received(client, broadcast),))
        return own_prototypes(net, data, classes=client.classes).to_knowledge(weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """Epochs of contrast between uploaded prototypes and the trained ones, which are those of the last round."""
        values, counts = stacked_prototypes(uploads, classes=server.classes)  # (K, C, D), (K, C)
        margin = min(largest_gap(*masked_mean(values, counts > 0)), self.margin_limit)
        build = partial(TrainablePrototypes, server.classes, values.shape[2])
        net = server.module("prototypes", build, keep=True)

        def loss(net: TrainablePrototypes, rows: Tensor, labels: Tensor) -> Tensor:
            return margin_loss(rows, net(), labels, margin=margin)

        sgd = torch.optim.SGD(net.parameters(), lr=self.server_lr)
        fit_on_prototypes(server, net, uploads, loss, part="contrast", optimizer=sgd, epochs=self.server_epochs)
        server.report({"margin": margin})
        with torch.no_grad():
            return Knowledge.of("embedding", {"prototypes": net().cpu()})

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """At a client the nearest prototype of all, and its net's classifier."""
        if not isinstance(node, Client):
            return {}
        net, held = node.net(init="own", keep=True), received(node, broadcast)
        nearest = {"prototype": Classifier(lambda inputs: held.nearest(net.features(inputs)))}
        return (nearest if bool(held.known.any()) else {}) | {"main": classifier(net)}


def received(node: Node, broadcast: Knowledge) -> Prototypes:
    """The prototypes of all classes, or of none before there are any."""
    rows = broadcast.tensors["prototypes"].to(node.device)  # (C, D) or (0, D)
    values = rows if len(rows) else rows.new_zeros(node.classes, rows.shape[1])
    return Prototypes(values, torch.full((node.classes,), len(rows), device=node.device))


@final
class TrainablePrototypes(nn.Module):
    """A point for each class, made of an embedding of its own by a net that all share."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.randn(classes, width))
        self.net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self) -> Tensor:
        """(C, D) float32."""
        points: Tensor = self.net(self.embeddings)
        return points.float()


def largest_gap(means: Tensor, owners: Tensor) -> float:
    """The distance of each class to the one that is nearest, of these the largest; infinity if there is but one class.

    Args:
        means: (C, D), the mean prototype of each class.
        owners: (C,), 0 for a class that nobody has: its row is not read.

    >>> largest_gap(torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0], [9.0, 9.0]]), torch.tensor([1, 2, 1, 0]))
    5.0
    """
    points = means[owners > 0]
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    return float(distances.fill_diagonal_(torch.inf).amin(1).max())


def margin_loss(rows: Tensor, prototypes: Tensor, labels: Tensor, *, margin: float) -> Tensor:
    """Cross-entropy of negative distances, where a row's distance to its own class counts for ``margin`` more.

    Args:
        rows: (B, D).
        prototypes: (C, D).
        labels: (B,) int64 class ids.
        margin: at least 0; the larger, the nearer must a row be to its class to be told from others.

    >>> rows, points = torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 7.0]])
    >>> round(margin_loss(rows, points, torch.tensor([0]), margin=2.0).item(), 4)  # 5 + 2 against 7: log 2
    0.6931
    """
    distances = torch.cdist(rows, prototypes, compute_mode="donot_use_mm_for_euclid_dist")  # (B, C)
    return cross_entropy_loss(-(distances + margin * F.one_hot(labels, len(prototypes))), labels)
