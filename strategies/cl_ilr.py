"""CL-ILR: heads on a shared intermediate representation, each taught by the mean of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, final

from pydantic import Field
from torch import Tensor

from fedkd import Batch, Client, Knowledge, Needs, Node, Peers, Positive, Predictor, Server, Settings, Strategy
from fedkd.aggregate import weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.methods import branches
from fedkd.nets import Branched

Share = Annotated[float, Field(ge=0, le=1)]


@final
@dataclass(frozen=True)
class CLILR(Strategy):
    """m classifier heads share a trunk; each learns from labels and from the others' mean logits, which are constants.

    Paper: Song and Chai, "Collaborative Learning for Deep Neural Networks", NeurIPS 2018, arXiv 1805.11761.
    What travels: weights and buffers of trunk and heads, down and up; 4 bytes a number. With ``data.clients = 1`` the
    run is the paper's; with more it is FedAvg of such nets.
        q_h = softmax(mean_{j != h} z_j / T)
        sum_h [ beta CE(z_h, y) - (1 - beta) mean_b sum_c q_h log softmax(z_h / T) ]
    Backpropagation rescaling: where the heads meet, the sum of their m gradients is multiplied by 1/m, so that the
    trunk learns at the rate of a net with one head, and the heads at their full one.
    Defaults: beta = 0.5, T = 2, 4 heads. ``accuracy`` is the mean of the heads' (the paper keeps one:
    ``peer_accuracies``).
    The optimiser's state stays at each client.
    Deviations: one split; the paper's trees split several times, and split in two. It is before the last stage of this
    library's nets. Published ports differ: one multiplies the soft term by T^2, another takes T^2 times the KL
    divergence with T = 3, a ramp, CE at weight 1, and lets gradients into the targets. Training images are not
    augmented.
    """

    branches: Annotated[int, Field(ge=2)] = 4  # m, how many heads share the trunk
    beta: Share = 0.5  # weight of the labels
    temperature: Positive = 2.0  # T of softened predictions

    paper: ClassVar[str] = "Song and Chai, NeurIPS 2018, arXiv 1805.11761"
    sends: ClassVar[str] = "weights and buffers of a net with branches, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)
    idle: ClassVar[Idle] = {"temperature": (Unless(beta=1),)}

    def check(self, experiment: Settings) -> None:
        """A net that can be cut."""
        branches.check(self, experiment)

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return branches.initial(server, partial(self._net, server))

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of all heads together."""

        def loss(net: Branched, batch: Batch) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (m, B, C)
            targets = mean_of_others(logits)
            soft = branches.summed_soft_cross_entropy(logits, targets, temperature=self.temperature)
            hard = branches.summed_cross_entropy(logits, batch.labels, batch.cross_entropy)
            return {"cross_entropy": self.beta * hard, "distillation": (1 - self.beta) * soft}

        net = branches.received(client, broadcast, partial(self._net, client))
        return branches.train(client, net, loss, 1 - self.beta)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts; of one client, what it sent."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        """The heads."""
        return {"branches": Peers(branches.received(node, broadcast, partial(self._net, node)).eval())}

    def _net(self, node: Node) -> Branched:
        return branches.branched(node, self.branches, split_scale=1 / self.branches)


def mean_of_others(logits: Tensor) -> Tensor:
    """For each branch the mean logits of the others, as constants: (m, B, C) of m >= 2 branches -> (m, B, C).

    >>> import torch
    >>> mean_of_others(torch.tensor([1.0, 2.0, 6.0]).view(3, 1, 1)).flatten()
    tensor([4.0000, 3.5000, 1.5000])
    """
    held = logits.detach().float()
    return (held.sum(0) - held) / (len(logits) - 1)
