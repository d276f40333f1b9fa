"""FedDistill+: FedAvg whose clients also exchange their mean logits for each label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

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
    broadcast_net,
    classifier,
)
from fedkd.aggregate import masked_mean, stack, weighted_mean
from fedkd.experiment.algorithm.train import fit
from fedkd.losses import kd_loss
from fedkd.methods.class_means import ClassMeans
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class FedDistill(Strategy):
    """Weights are averaged as in FedAvg; each sample is also taught the clients' mean logits for its label.

    Paper: Zhu et al., "Data-Free Knowledge Distillation for Heterogeneous Federated Learning", ICML 2021, arXiv
    2105.10056, whose repository calls it FedDistill-FL: the FD of Jeong et al. 2018, arXiv 1811.11479, with weights
    shared.
    What travels: |θ| elements and 4 C² + 4 C bytes, down and up, C classes: weights and buffers, mean logits by label,
    and of how many outputs (up) or clients (down) they are the mean.
    A class that no participant holds has no teacher: its samples are taught their label only, as are all in the first
    round. Deviations, each a defect of that repository: the means are of this round's training steps, there of the
    whole history; counts start at 0, there at 1; a class that a client lacks is left out of the mean, there it enters
    as zeros; buffers are averaged too. Its optional pretraining is left out. Its "local epochs" are mini-batches; here
    epochs are epochs.
    """

    alpha: NonNegative = 1.0  # weight of the distillation term; the repository's reg_alpha

    paper: ClassVar[str] = "Zhu et al., ICML 2021, arXiv 2105.10056"
    sends: ClassVar[str] = "weights and buffers, and mean logits by label, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights; no mean logits yet."""
        nothing = torch.zeros(server.classes, server.classes)
        return _both(Knowledge.of("weights", server.net().state_dict()), nothing, torch.zeros(server.classes))

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs from the global weights; logits are averaged on the way."""
        net = broadcast_net(client, broadcast.in_space("weights"))
        rows = broadcast.tensors["label_logits"].to(client.device)  # (C, C)
        known = broadcast.tensors["label_counts"].to(client.device) > 0  # (C,)
        own = ClassMeans(classes=client.classes, width=client.classes, device=client.device)

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            logits, labels = net(batch.inputs), batch.labels  # (B, C), (B,)
            own.add(logits, labels)
            taught = torch.where(known[labels, None], rows[labels], logits.detach())  # who has no teacher differs by 0
            return {
                "cross_entropy": batch.cross_entropy(logits),
                "distillation": self.alpha * kd_loss(logits, taught, temperature=1.0),
            }

        data = client.train.labelled()
        losses = fit(net, data, loss)
        weights = Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)
        return _both(weights, own.values(), own.counts())

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """Weights averaged by sample counts; logits by label uniformly over the clients that hold it."""
        weights = weighted_mean({client: upload.in_space("weights") for client, upload in uploads.items()})
        return _both(weights, *masked_mean(stack(uploads, "label_logits"), stack(uploads, "label_counts") > 0))

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net, at the server and at every client."""
        return {"global": classifier(broadcast_net(node, broadcast.in_space("weights")))}


def _both(weights: Knowledge, label_logits: Tensor, label_counts: Tensor) -> Knowledge:
    """Weights, and logits (C, C) with counts (C,), in one message."""
    return weights.with_tensors("logits", {"label_logits": label_logits}).with_tensors(
        "counts", {"label_counts": label_counts.int()}
    )
