"""PCL: branches on a shared trunk, taught by an ensemble head and by the moving averages of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedkd import (
    Batch,
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    Peers,
    Positive,
    Predictor,
    Server,
    Settings,
    Strategy,
)
from fedkd.aggregate import weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import kd_loss
from fedkd.methods import branches
from fedkd.methods.ramp import ramped
from fedkd.nets import Branches, MovingAverage

Share = Annotated[float, Field(ge=0, le=1)]


@final
@dataclass(frozen=True)
class PCL(Strategy):
    """m branches share a trunk, each sees its own view; a head on all features, and averages of the peers, teach them.

    Paper: Wu and Gong, "Peer Collaborative Learning for Online Knowledge Distillation", AAAI 2021, arXiv 2006.04147.
    What travels: weights and buffers of trunk, branches and ensemble head, and of the averaged trunk and branches with
    their count of steps, down and up; their 4 bytes a number, of counters 8. With ``data.clients = 1`` the run is the
    paper's, its epochs the rounds; with more it is FedAvg of such nets and of their averages.
        z_e = V [features_1; ...; features_m]
        CE(z_e, y) + sum_i [ CE(z_i, y) + w T^2 KL(softmax(z_e / T) || softmax(z_i / T))
        + w mean_{j != i} T^2 KL(softmax(mean_j / T) || softmax(z_i / T)) ],   z_e in the KL and every mean_j constant
    mean_j: what the averaged trunk and branch j give of view j. Decay after step t = 0, 1, ...: min(1 - 1/(t + 1),
    0.999).
    Defaults: 3 branches, T = 3; w rises to 1 over the first 80 of 300 epochs, here by a ``ramp`` of 0.27 of the rounds.
    BatchNorm: the trunk runs once a view, so each view is normalised by itself and the trunk's running statistics move
    m times a step, those of a branch once. The averaged net runs in train mode too, on statistics of its own.
    ``accuracy`` is the averaged branches' mean (the paper tests one), ``branches_accuracy`` that of the live ones,
    ``ensemble_head_accuracy`` that of z_e. The optimiser's state stays at each client.
    Deviations: there is no official code; BatchNorm and decay are as in an unofficial one. Views are ``data.views``,
    crop and flip by default; the net is one of this library's, cut before its last stage.
    """

    branches: Annotated[int, Field(ge=1)] = 3  # m, how many branches share the trunk
    temperature: Positive = 3.0  # T of softened predictions
    ramp: Share = 0.27  # of the rounds, until the distillation has its full weight; 0 = from the start
    decay: Share = 0.999  # of the moving average, in the long run
    own_views: bool = True  # a random view for each branch; else all see the plain samples, and the trunk runs once

    paper: ClassVar[str] = "Wu and Gong, AAAI 2021, arXiv 2006.04147"
    sends: ClassVar[str] = "weights and buffers of a net with branches and of its moving average, both ways"
    teaches: ClassVar[str] = "average.net."
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True, uses=("views",))
    idle: ClassVar[Idle] = {"views": (Unless(own_views=False),)}

    def check(self, experiment: Settings) -> None:
        """A net that can be cut."""
        branches.check(self, experiment)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights; the average starts from them."""
        return branches.initial(server, partial(self._net, server))

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of branches and head together; the average follows after each step."""
        weight = ramped(client, self.ramp)
        net: Any = branches.received(client, broadcast, partial(self._net, client))

        def loss(net: Any, batch: Batch) -> dict[str, Tensor]:
            views = [batch.view(i) for i in range(self.branches)] if self.own_views else [batch.inputs]
            outputs, means = net["branches"].outputs(*views), net["average"](*views)  # means: (m, B, C)
            logits, ensemble = outputs.logits, ensembled(net, outputs)  # (m, B, C), (B, C)
            teaching = branches.summed_distillation(logits, ensemble, temperature=self.temperature)
            peers = peer_distillation(logits, means, temperature=self.temperature)
            return {
                "cross_entropy": branches.summed_cross_entropy(logits, batch.labels, batch.cross_entropy),
                "ensemble_cross_entropy": batch.cross_entropy(ensemble),
                "distillation": weight * teaching,
                "peer_distillation": weight * peers,
            }

        return branches.train(client, net, loss, weight, after_step=lambda: net["average"].follow(net["branches"]))

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts; of one client, what it sent."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        """The averaged branches, the live ones, and the head on the live ones' features."""
        net: Any = branches.received(node, broadcast, partial(self._net, node)).eval()
        head = Classifier(lambda inputs: ensembled(net, net["branches"].outputs(inputs)))
        return {"averaged_branches": Peers(net["average"]), "branches": Peers(net["branches"]), "ensemble_head": head}

    def _net(self, node: Node) -> nn.ModuleDict:
        net = branches.branched(node, self.branches)
        head = nn.Linear(self.branches * net.out_features, node.classes).to(node.device)
        return nn.ModuleDict({"branches": net, "head": head, "average": MovingAverage(net, most=self.decay, first=0)})


def ensembled(net: Any, outputs: Branches) -> Tensor:
    """The head's logits (B, C) of all branches' features, (m, B, D) side by side."""
    return net["head"](outputs.features.transpose(0, 1).flatten(1))  # type: ignore[no-any-return]  # (B, m D) -> (B, C)


def peer_distillation(logits: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """What each branch learns from the targets of the m - 1 others, their mean, summed over branches; 0 for one alone::

        sum_i 1/(m - 1) sum_{j != i} T^2 mean_b KL(softmax(t_j / T) || softmax(z_i / T))

    Args:
        logits: (m, B, C), z.
        targets: (m, B, C) logits, t; constants.
        temperature: T > 0.

    Returns:
        () float32 or better, at least 0.
    """
    branches = len(logits)
    if branches == 1:
        return logits.sum() * 0
    others = torch.stack([torch.cat([targets[:i], targets[i + 1 :]]) for i in range(branches)])  # (m, m - 1, B, C)
    own = logits[:, None].expand_as(others)
    return branches * kd_loss(own.flatten(0, 2), others.flatten(0, 2), temperature=temperature)
