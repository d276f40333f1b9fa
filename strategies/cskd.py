"""CS-KD: a net's prediction of a sample learns from its prediction of another sample of the same class."""

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
from fedkd.base.inputs import rows
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.experiment.algorithm.train import Draw, Split
from fedkd.losses import kd_loss
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class CSKD(Strategy):
    """Class-wise self-distillation: samples of one class, drawn as pairs, are to be predicted alike.

    Paper: Yun et al., "Regularizing Class-wise Predictions via Self-knowledge Distillation", CVPR 2020, arXiv
    2003.13964.
    What travels: weights and buffers, down and up; |θ| elements each. With ``data.clients = 1`` the run is the paper's;
    with more it is FedAvg of nets that clients train so.
    Each sample of a batch has a partner x' of its class, drawn anew at every step from the client's own:
        CE(z(x), y) + weight T^2 KL(softmax(z(x') / T) || softmax(z(x) / T)),   z(x') constant: ``losses.cskd_loss``
    ``train.batch_size`` counts the samples that are learned from; their partners come beside them.
    Defaults are those of the official code for CIFAR-100; for fine-grained data it takes ``weight`` 3.
    Deviations: a sample is its own partner only where its class has no other; the code draws among all of the class.
    Training images are not augmented. As in the code the partners pass the net in train mode, a batch by itself, so
    BatchNorm moves twice a step.
    """

    temperature: Positive = 4.0  # T, of both softmaxes; the term is multiplied by its square
    weight: NonNegative = 1.0  # of the divergence from the partner's prediction

    paper: ClassVar[str] = "Yun et al., CVPR 2020, arXiv 2003.13964"
    sends: ClassVar[str] = "weights and buffers, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = {"temperature": (Unless(weight=0),)}

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return Knowledge.of("weights", server.net().state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs over pairs, from the global weights."""
        net, data = client.net(weights=broadcast.tensors), client.train.labelled()

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            learned = len(batch) // 2
            logits = net(rows(batch.inputs, slice(learned)))  # (B, C)
            with torch.no_grad():
                partners = net(rows(batch.inputs, slice(learned, None)))
            return {
                "cross_entropy": batch.cross_entropy(logits, batch.labels[:learned]),
                "distillation": self.weight * kd_loss(logits, partners, temperature=self.temperature),
            }

        losses = fit(net, data, loss, draws=paired_draws(data))
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts; of one client, what it sent."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net, at the server and at every client."""
        return {"global": classifier(broadcast_net(node, broadcast))}


def paired_draws(data: Split) -> list[Draw]:
    """The batches of a round's training, each with a partner for every sample behind its samples: 2 B positions."""
    labels, rng = data.samples.labels[data.samples.indices], data.rng("partners")
    draws = data.of_a_round(data.work.settings.batch_size, data.rng("batches"))
    return [Draw(torch.cat([draw.positions, partners(labels, draw.positions, rng)]), draw.seed) for draw in draws]


def partners(labels: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
    """For each chosen sample another one of its class, drawn uniformly; itself where its class has no other.

    Args:
        labels: (M,) int64, of all samples.
        chosen: (B,) places among these.
        rng: a CPU generator.

    Returns:
        (B,) places.

    >>> partners(torch.tensor([4, 7, 4, 9]), torch.tensor([0, 1, 2]), torch.Generator())
    tensor([2, 1, 0])
    """
    order = labels.argsort(stable=True)  # class by class
    place = order.argsort()  # of each sample in that order
    counts = torch.bincount(labels)
    first = counts.cumsum(0) - counts
    own = labels[chosen]
    size, rank = counts[own], place[chosen] - first[own]  # of the class, and of the sample in it
    ahead = (torch.rand(len(chosen), generator=rng, dtype=torch.float64) * (size - 1)).long() + 1
    return order[first[own] + (rank + ahead) % size]
