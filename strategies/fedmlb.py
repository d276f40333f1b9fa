"""FedMLB: FedAvg whose clients' lower parts must also work under the upper parts of the global net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
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
from fedkd.base.inputs import Inputs
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.nets import Net, cut_net, parts_of
from fedkd.nets.outputs import called


@final
@dataclass(frozen=True)
class FedMLB(Strategy):
    """A client's net is cut at each level, and each map goes on through the frozen rest of the net that it received.

    Paper: Kim et al., "Multi-Level Branched Regularization for Federated Learning", ICML 2022.
    What travels: all weights and buffers, down and up; |θ| elements each, as in FedAvg.
        CE(own, y) + lambda_1 mean over levels of CE(hybrid, y) + lambda_2 mean over levels of KL(hybrid || own)
    A hybrid is the client's parts up to a level, then the global net's; the last level is behind the features, where
    only the classifier is the global one. A resnet18 has five, a cnn, mlp or transformer as many as it has layers.
    The gradient of both terms goes through the frozen parts into the client's; that of KL reaches both its sides, as
    in the authors' code. Hybrids of all levels go through the global parts as one batch.
    Deviations: the global net is in eval mode, so that what it normalises by stays its own: a hybrid batch has other
    statistics. In that code, whose nets have GroupNorm, it makes no difference. There gradients are clipped at 10,
    which is ``train.clip`` here; SGD is without momentum at a rate of 0.1, falling by 0.2 % a round; and the own
    cross-entropy has a weight, too, of 1. With lambda_1 = lambda_2 = 0 it is FedAvg. On digits a cnn gained a
    little over that with the authors' optimiser, and lost with momentum 0.9 at a rate of 0.05, where the hybrids'
    cross-entropy cost more than distillation gained. An mlp lost.
    """

    hybrid_weight: NonNegative = 1.0  # lambda_1
    distillation_weight: NonNegative = 1.0  # lambda_2
    temperature: Positive = 1.0  # of both softmaxes of KL, which is not multiplied by its square

    paper: ClassVar[str] = "Kim et al., ICML 2022"
    sends: ClassVar[str] = "weights and buffers, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = {"temperature": (Unless(distillation_weight=0),)}

    def check_samples(self, node: Node) -> None:
        """Refuse nets that cannot be cut."""
        cut_net(node.net(), 1)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return Knowledge.of("weights", server.net().state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs from the global weights, its maps read by the frozen global net as well."""
        net, received = client.net(weights=broadcast.tensors), broadcast_net(client, broadcast).requires_grad_(False)

        def loss(net: Net, batch: Batch, received: Net) -> dict[str, Tensor]:
            logits, hybrids = own_and_hybrids(net, received, batch.inputs)  # (B, C), (L, B, C)
            levels = len(hybrids)
            mixed = hybrids.flatten(0, 1)  # (L B, C)
            own, labels = logits.repeat(levels, 1), batch.labels.repeat(levels)
            return {
                "cross_entropy": batch.cross_entropy(logits),
                "hybrid_cross_entropy": self.hybrid_weight * batch.cross_entropy(mixed, labels),
                "distillation": self.distillation_weight * mutual_divergence(mixed, own, temperature=self.temperature),
            }

        data = client.train.labelled()
        losses = fit(net, data, loss, given=(received,))
        return Knowledge.of("weights", net.state_dict(), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The global net, at the server and at every client."""
        return {"global": classifier(broadcast_net(node, broadcast))}


def own_and_hybrids(own: Net, received: Net, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """A net's logits (B, C), and those of its maps at each level under the rest of another net (L, B, C), deepest last.

    Each part of either net runs once: maps of a level join those that are on their way through the other net.
    """
    first, *rest = parts_of(own)
    _, *others = parts_of(received)
    held: Tensor = called(first, own.laid_out(inputs))
    mixed = held
    for part, other in zip(rest, others, strict=True):
        held = part(held)
        mixed = torch.cat([other(mixed), held])
    logits = own.head("classifier", held)
    return logits, received.head("classifier", mixed).unflatten(0, (-1, len(logits)))


def mutual_divergence(taught: Tensor, student: Tensor, *, temperature: float) -> Tensor:
    """KL(taught || student) of logits (B, C), a mean over samples; the gradient reaches both. Scalar.

    >>> taught, student = torch.tensor([[0.0, 3.0]]).log1p(), torch.zeros(1, 2)  # (1/5, 4/5) and (1/2, 1/2)
    >>> round(mutual_divergence(taught, student, temperature=1.0).item(), 4)
    0.1927
    """
    log_taught, log_student = ((logits.float() / temperature).log_softmax(1) for logits in (taught, student))
    return F.kl_div(log_student, log_taught, reduction="batchmean", log_target=True)
