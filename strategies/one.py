"""ONE: branches on a shared trunk, taught by an ensemble of themselves that a gate weighs."""

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
    InputError,
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
from fedkd.base.inputs import Inputs
from fedkd.methods import branches
from fedkd.methods.ramp import ramped
from fedkd.nets import Branched, Gate, pooled

Share = Annotated[float, Field(ge=0, le=1)]


@final
@dataclass(frozen=True)
class ONE(Strategy):
    """m branches share a trunk; a gate on the trunk's map weighs their logits into an ensemble, the teacher of each.

    Paper: Lan, Zhu and Gong, "Knowledge Distillation by On-the-Fly Native Ensemble", NeurIPS 2018, arXiv 1806.04606.
    What travels: weights and buffers of trunk, branches and gate, down and up; 4 bytes a number. With ``data.clients =
    1`` the run is the paper's, its epochs the rounds; with more it is FedAvg of such nets.
        g = softmax(relu(BatchNorm(W pool(trunk map)))), z_e = sum_i g_i z_i
        sum_i CE(z_i, y) + CE(z_e, y) + w sum_i T^2 KL(softmax(z_e / T) || softmax(z_i / T)),   z_e constant in the last
    Defaults: 3 branches, T = 3; w rises to 1 over the first 80 of 300 epochs, here by a ``ramp`` of 0.27 of the rounds.
    The paper trains by SGD, lr 0.1, Nesterov momentum 0.9, over 300 epochs of 128 images, x 0.1 after 150 and 225.
    ``accuracy`` is the mean of the branches' (the paper tests the first: ``peer_accuracies``);
    ``gated_ensemble_accuracy`` is what it calls ONE-E. The optimiser's state stays at each client.
    Deviations: the net is cut before its last stage, as there, but of this library's nets; training images are not
    augmented; weights of linear layers start as torch has it; the 1e-7 that the official code adds to the teacher's
    probabilities is left out, as all is computed in logarithms.
    """

    branches: Annotated[int, Field(ge=1)] = 3  # m, how many branches share the trunk
    temperature: Positive = 3.0  # T of softened predictions
    ramp: Share = 0.27  # of the rounds, until the distillation has its full weight; 0 = from the start

    paper: ClassVar[str] = "Lan et al., NeurIPS 2018, arXiv 1806.04606"
    sends: ClassVar[str] = "weights and buffers of a net with branches, both ways"
    teaches: ClassVar[str] = "branches."
    needs: ClassVar[Needs] = Needs(labels=True, equal_nets=True)

    def check(self, experiment: Settings) -> None:
        """A net that can be cut, batches of two and more."""
        branches.check(self, experiment)
        if experiment.train.batch_size < 2:
            raise InputError("train.batch_size: ONE needs statistics of a batch: set it to 2 or more")

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared initial weights."""
        return branches.initial(server, partial(self._net, server))

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of branches, ensemble and gate together."""
        weight = ramped(client, self.ramp)

        def loss(net: Any, batch: Batch) -> dict[str, Tensor]:
            logits, ensemble = gated(net, batch.inputs)  # (m, B, C) and (B, C)
            teaching = branches.summed_distillation(logits, ensemble, temperature=self.temperature)
            return {
                "cross_entropy": branches.summed_cross_entropy(logits, batch.labels, batch.cross_entropy),
                "ensemble_cross_entropy": batch.cross_entropy(ensemble),
                "distillation": weight * teaching,
            }

        net = branches.received(client, broadcast, partial(self._net, client))
        return branches.train(client, net, loss, weight)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean, weighted by sample counts; of one client, what it sent."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Predictor]:
        """The branches, and their ensemble."""
        net: Any = branches.received(node, broadcast, partial(self._net, node)).eval()
        return {"branches": Peers(net["branches"]), "gated_ensemble": Classifier(lambda inputs: gated(net, inputs)[1])}

    def _net(self, node: Node) -> nn.ModuleDict:
        net = branches.branched(node, self.branches)
        gate = Gate(trunk_channels(net, node), self.branches).to(node.device)
        return nn.ModuleDict({"branches": net, "gate": gate})


def gated(net: Any, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Logits of the branches (m, B, C), and of their ensemble (B, C), in one pass."""
    outputs = net["branches"].outputs(inputs)
    shares = net["gate"](outputs.maps[0])  # (B, m)
    return outputs.logits, (shares.T[:, :, None] * outputs.logits).sum(0)


def trunk_channels(net: Branched, node: Node) -> int:
    """c of the map that the trunk makes of this node's samples."""
    net.trunk.eval()  # one sample has no batch statistics, and none are to be kept
    with torch.no_grad():
        channels = pooled(net.map_of(branches.example_input(node))).shape[1]
    net.trunk.train()
    return channels
