"""FedNTD: FedAvg whose clients keep the global net's opinion on the classes that are not the label."""

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
from fedkd.losses import not_true_loss
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class FedNTD(Strategy):
    """Cross-entropy plus distillation from the received net over the C - 1 wrong classes: they are not forgotten.

    Paper: Lee et al., "Preservation of the Global Knowledge by Not-True Distillation in Federated Learning", NeurIPS
    2022, arXiv 2106.03097.
    What travels: all weights and buffers, down and up; |θ| elements each, as in FedAvg.
    Deviations: the teacher is the received net in eval mode; the official code leaves it in the mode that its copy was
    in. It also ships the server optimiser's state, of which only the learning rate acts: ``train.schedule`` here.
    """

    beta: NonNegative = 1.0  # weight of the distillation term
    temperature: Positive = 1.0  # tau, of both softmaxes; the term is multiplied by its square

    paper: ClassVar[str] = "Lee et al., NeurIPS 2022, arXiv 2106.03097"
    sends: ClassVar[str] = "weights and buffers, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = {"temperature": (Unless(beta=0),)}

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return Knowledge.of("weights", server.net().state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs from the global weights, against the frozen global net."""
        net, teacher = client.net(weights=broadcast.tensors), broadcast_net(client, broadcast).requires_grad_(False)

        def loss(net: Net, batch: Batch, teacher: Net) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (B, C)
            with torch.no_grad():
                taught = teacher(batch.inputs)
            return {
                "cross_entropy": batch.cross_entropy(logits),
                "not_true": self.beta * not_true_loss(logits, taught, batch.labels, temperature=self.temperature),
            }

        data = client.train.labelled()
        losses = fit(net, data, loss, given=(teacher,))
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net, at the server and at every client."""
        return {"global": classifier(broadcast_net(node, broadcast))}
