"""FedLMD-Tf: FedAvg whose clients keep all classes in mind of which they have few samples; nobody teaches them."""

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
    Positive,
    Server,
    Strategy,
    broadcast_net,
    classifier,
    fit,
)
from fedkd.aggregate import weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import label_masking_loss, majority_labels
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class FedLMDTf(Strategy):
    """Cross-entropy plus distillation from a teacher made by hand: each class that a client has few of is as likely.

    Paper: Lu et al., "Federated Learning with Label-Masking Distillation", ACM MM 2023, arXiv 2409.13136.
    What travels: all weights and buffers, down and up; |θ| elements each, as in FedAvg. A client counts its own labels,
    and tells nobody.
        cross-entropy + beta T² KL(uniform over classes but y and majority || softmax(net without y / T))
    It is FedLMD without its teacher, and costs FedAvg's time: a client passes its samples through one net, not two. The
    majority are the client's classes with more samples than the mean over all classes; where all have as many there is
    none, and each wrong class is as likely. A sample that leaves no class learns its label only.
    Deviations: formulas are what the official code means, the paper was not at hand. That code does not run: its loss
    takes no majority. Its target is 1 / (C - B - 1) for each class that is left, B being the batch's size: negative
    where B is at least C; here it is 1 / how many are left. There the server counts clients' labels, and lr falls
    by 1 % a round, which is ``train.schedule`` here.
    """

    beta: NonNegative = 1.0  # weight of the distillation term
    temperature: Positive = 1.0  # T, of the net's softmax; the term is multiplied by its square

    paper: ClassVar[str] = "Lu et al., ACM MM 2023, arXiv 2409.13136"
    sends: ClassVar[str] = "weights and buffers, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = {"temperature": (Unless(beta=0),)}

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return Knowledge.of("weights", server.net().state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs from the global weights."""
        net, data = client.net(weights=broadcast.tensors), client.train.labelled()
        majority = majority_labels(data.samples.label_counts()).to(client.device)  # (C,)

        def loss(net: Net, batch: Batch, majority: Tensor) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (B, C)
            alike = torch.zeros_like(logits)  # (B, C)
            distillation = label_masking_loss(logits, alike, batch.labels, majority, temperature=self.temperature)
            return {"cross_entropy": batch.cross_entropy(logits), "label_masking": self.beta * distillation}

        losses = fit(net, data, loss, given=(majority,))
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net, at the server and at every client."""
        return {"global": classifier(broadcast_net(node, broadcast))}
