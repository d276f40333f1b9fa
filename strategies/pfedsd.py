"""pFedSD: FedAvg whose clients learn from the net that they trained the last time, so as not to forget it."""

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
    load,
)
from fedkd.aggregate import weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import kd_loss
from fedkd.methods.public_distillation import train_on_labels
from fedkd.nets import Net

#: In a client's memory: whether it has trained before.
TRAINED = "pfedsd/trained"


@final
@dataclass(frozen=True)
class PFedSD(Strategy):
    """Cross-entropy, from the global weights, plus distillation from the client's own net of its last participation.

    Paper: Jin et al., "Personalized Edge Intelligence via Federated Self-Knowledge Distillation", IEEE TPDS 2023.
    What travels: all weights and buffers, down and up; |θ| elements each, as in FedAvg. The client's last net, as
    large, stays in its memory.
        cross-entropy + weight T² KL(own last net || own)
    ``client_accuracy`` is that of the net that the client trained last, which is what the method is for; ``accuracy``
    that of the global one. A client that has not trained yet has the global net, and in its first participation, which
    has no teacher, trains as in FedAvg.
    Deviations: in the official code the server keeps every client's last net and sends it back, |θ| elements more; here
    clients keep it. There buffers stay those of the first net at the server, the teacher's batch statistics move as it
    teaches, and clients are averaged uniformly; here buffers are averaged, the teacher is in eval mode, and clients
    count by samples, so that a weight of 0 is FedAvg. Its option to keep some layers personal, off there, is left out.
    """

    weight: NonNegative = 1.0  # lambda, of the distillation term
    temperature: Positive = 1.0  # T, of both softmaxes; the term is multiplied by its square

    paper: ClassVar[str] = "Jin et al., IEEE TPDS 2023"
    sends: ClassVar[str] = "weights and buffers, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = {"temperature": (Unless(weight=0),)}

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return Knowledge.of("weights", server.net().state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs from the global weights, against the frozen net of last time, which the result replaces."""
        net, data = client.net(weights=broadcast.tensors), client.train.labelled()
        last = client.net("last", keep=True).eval().requires_grad_(False)

        def loss(net: Net, batch: Batch, last: Net) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (B, C)
            with torch.no_grad():
                taught = last(batch.inputs)
            distillation = kd_loss(logits, taught, temperature=self.temperature)
            return {"cross_entropy": batch.cross_entropy(logits), "distillation": self.weight * distillation}

        losses = fit(net, data, loss, given=(last,)) if TRAINED in client.memory else train_on_labels(net, data)
        load(last, net.state_dict())
        client.memory[TRAINED] = 1
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net at the server, at a client the net that it trained last."""
        if isinstance(node, Client) and TRAINED in node.memory:
            return {"last": classifier(node.net("last", keep=True))}
        return {"global" if isinstance(node, Server) else "last": classifier(broadcast_net(node, broadcast))}
