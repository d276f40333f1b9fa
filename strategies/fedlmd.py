"""FedLMD: FedAvg whose clients keep the global net's opinion on the classes of which they have few samples."""

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
class FedLMD(Strategy):
    """Cross-entropy plus distillation from the received net, silent on classes of which the client has enough.

    Paper: Lu et al., "Federated Learning with Label-Masking Distillation", ACM MM 2023, arXiv 2409.13136.
    What travels: all weights and buffers, down and up; |θ| elements each, as in FedAvg. A client counts its own labels,
    and tells nobody.
        cross-entropy + beta T² KL(softmax(global net without y and majority / T) || softmax(net without y / T))
    The majority are the client's classes with more samples than the mean over all classes. The client's net keeps them,
    so what it gives to a wrong one is pushed to the classes of which the client has few. Where all classes have as many
    samples there is no majority, and this is FedNTD. A sample that leaves the teacher no class learns its label only.
    Deviations: formulas are the official code's, the paper was not at hand. There the server counts clients' labels;
    masks are 1000 taken off a logit, so that a sample that leaves the teacher no class has a loss of hundreds; the
    teacher is in the mode that its copy was in, here in eval mode; lr falls by 1 % a round, which is ``train.schedule``
    here.
    """

    beta: NonNegative = 1.0  # weight of the distillation term
    temperature: Positive = 1.0  # T, of both softmaxes; the term is multiplied by its square

    paper: ClassVar[str] = "Lu et al., ACM MM 2023, arXiv 2409.13136"
    sends: ClassVar[str] = "weights and buffers, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = {"temperature": (Unless(beta=0),)}

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return Knowledge.of("weights", server.net().state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs from the global weights, against the frozen global net where it knows more."""
        net, teacher = client.net(weights=broadcast.tensors), broadcast_net(client, broadcast).requires_grad_(False)
        data = client.train.labelled()
        majority = majority_labels(data.samples.label_counts()).to(client.device)  # (C,)

        def loss(net: Net, batch: Batch, teacher: Net, majority: Tensor) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (B, C)
            with torch.no_grad():
                taught = teacher(batch.inputs)
            distillation = label_masking_loss(logits, taught, batch.labels, majority, temperature=self.temperature)
            return {"cross_entropy": batch.cross_entropy(logits), "label_masking": self.beta * distillation}

        losses = fit(net, data, loss, given=(teacher, majority))
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net, at the server and at every client."""
        return {"global": classifier(broadcast_net(node, broadcast))}
