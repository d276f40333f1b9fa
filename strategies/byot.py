"""BYOT: a net with exits on its way; the deepest teaches the others, all inside one net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import (
    Batch,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Peers,
    Positive,
    Predictor,
    Server,
    Settings,
    Strategy,
)
from fedkd.aggregate import weighted_mean
from fedkd.base.errors import under
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.methods import branches
from fedkd.nets import NetWithExits, check_exits

Share = Annotated[float, Field(ge=0, le=1)]


@final
@dataclass(frozen=True)
class BYOT(Strategy):
    """Self-distillation: L exits, after each size of the net's maps; the last is the net, and teaches the shallow ones.

    Paper: Zhang et al., "Be Your Own Teacher", ICCV 2019, arXiv 1905.08094; the default is the later, journal form
    ("Self-Distillation: Towards Efficient and Compact Neural Networks", TPAMI 2022) as in its official code.
    What travels: weights and buffers of the net and its exits, down and up; 4 bytes a number. With ``data.clients = 1``
    the run is the paper's; with more it is FedAvg of such nets.
        CE(z_L, y) + sum_{i < L} [ (1 - alpha) CE(z_i, y) - alpha s mean_b sum_c softmax(z_L / T) log softmax(z_i / T) ]
        + lambda sum_{1 < i < L} || A_i(f_i) - f_L ||_2,   z_L and f_L constant but in the first term
    The norm is that of the whole batch's differences, not squared: it grows with the batch. The shallowest exit has no
    hint, so a net of two exits has none at all.
    Defaults: alpha = 0.3, T = 3, s = 1, lambda = 0.03. ``accuracy`` is the deepest exit's, ``peer_accuracies`` has all.
    Near the ICCV form: alpha = 0.1, ``distillation_scale`` = T^2 = 9, ``hint_weight`` = 1e-6; its norm is squared, here
    not.
    Deviations: the exits' convolutions are separable, as in the official code, their last width is that of the net's
    last map, and A_i is linear; the code's comment leaves the hint out at the shallowest exit, its index at the deepest
    of the shallow ones: here it is the shallowest. No AutoAugment, no Cutout, no attention. The optimiser's state stays
    at each client.
    """

    alpha: Share = 0.3  # weight of the deepest exit against the labels
    temperature: Positive = 3.0  # T of the softened predictions that exits learn from the deepest one
    distillation_scale: NonNegative = 1.0  # s, multiplies the distillation between exits
    hint_weight: NonNegative = 0.03  # lambda, of the distance between an exit's features and the deepest one's

    paper: ClassVar[str] = "Zhang et al., ICCV 2019, arXiv 1905.08094"
    sends: ClassVar[str] = "weights and buffers of a net with exits, both ways"
    teaches: ClassVar[str] = "net."
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = {
        "temperature": (Unless(alpha=0), Unless(distillation_scale=0)),
        "distillation_scale": (Unless(alpha=0),),
    }

    def check(self, experiment: Settings) -> None:
        """A net with feature maps."""
        self.needs.check(type(self).__name__, experiment)
        with under("nets"):
            check_exits(experiment.architectures[0])

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return branches.initial(server, partial(_net, server))

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of the net and its exits together."""

        def loss(net: NetWithExits, batch: Batch) -> dict[str, Tensor]:
            outputs = net.outputs(batch.inputs)
            shallow, deepest = outputs.logits[:-1], outputs.logits[-1]  # (L - 1, B, C) and (B, C)
            labels = (1 - self.alpha) * branches.summed_cross_entropy(shallow, batch.labels, batch.cross_entropy)
            soft = branches.summed_soft_cross_entropy(shallow, deepest, temperature=self.temperature)
            deep = outputs.features.detach().float()
            hints = [torch.linalg.vector_norm(own.float() - deep) for own in outputs.adapted]
            return {
                "cross_entropy": batch.cross_entropy(deepest) + labels,
                "distillation": self.alpha * self.distillation_scale * soft,
                "hint": self.hint_weight * sum(hints, start=torch.zeros((), device=deepest.device)),
            }

        net = branches.received(client, broadcast, partial(_net, client))
        return branches.train(client, net, loss, self.alpha)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts; of one client, what it sent."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        """The exits; the last one counts."""
        net = branches.received(node, broadcast, partial(_net, node)).eval()
        return {"exits": Peers(net, headline=len(net.places))}


def _net(node: Node) -> NetWithExits:
    return NetWithExits(node.fresh_net(), node.classes, branches.example_input(node)).to(node.device)
