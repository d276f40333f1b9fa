"""FedMRL: a small net that all share sees each sample beside a client's own net, and what both see is fused there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from fedkd import (
    Batch,
    Classifier,
    Client,
    InputError,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Server,
    Strategy,
    fit,
)
from fedkd.aggregate import weighted_mean
from fedkd.base.inputs import Inputs
from fedkd.methods.frozen_nets import put_under, tensors_under
from fedkd.methods.mutual import shared_net

#: How the names of the shared net's tensors begin: its classifier reads fused features, so that it is no net alone.
SHARED = "shared/"


@final
@dataclass(frozen=True)
class FedMRL(Strategy):
    """Own nets of any kind, each with a projection that fuses its features with those of a small net that is averaged.

    Paper: Yi et al., "Federated Model Heterogeneous Matryoshka Representation Learning", NeurIPS 2024, arXiv
    2406.00488. With f_s and f the features of a sample by the shared net and by the client's own, D_s and D wide:
        r = W [f_s; f] + b, D wide
        loss = CE(own classifier(r), y) + shared_weight CE(shared classifier(first D_s numbers of r), y)
    What travels: weights and buffers of the shared net, ``shared_net`` (default: the server's net), down and up; |θ_s|
    elements each, 4 |θ_s| bytes. Own nets and projections stay with the clients, who keep both over the rounds. Nets
    may differ, but none may be narrower than the shared one: D_s <= D.
    One step trains all three, by an optimiser that is new each round; the mean of shared nets is weighted by sample
    counts. Own nets of one architecture start equal, and so do projections of one shape, as in the authors' code: the
    shared classifier reads numbers that mean the same everywhere. The headline is a client's own classifier on r, with
    the shared net as it was last sent. Neither net gives good answers alone: a run leaves none to export.
    Deviations: the authors' code scores the clients that took part, with the shared net as each just trained it; on
    digits that made no difference. The momentum of the shared net and of the projection goes there from one client on
    to the next, as each has one optimiser for all clients; sample counts have test samples in them; gradients of each
    part are clipped at a norm of 50, here ``train.clip`` is for all together. HtFLlib's clients never save the
    projection that they train: each round starts, and each test is made, with the first one; its mean counts clients
    alike. That the paper weighs both losses, by 1 and 1, is from memory.
    """

    shared_weight: NonNegative = 1.0  # of the shared classifier's loss

    paper: ClassVar[str] = "Yi et al., NeurIPS 2024, arXiv 2406.00488"
    sends: ClassVar[str] = "weights and buffers of a shared net, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, uses=("server_net", "shared_net"))

    def check_samples(self, node: Node) -> None:
        """Refuse nets without features, and a shared net whose features are wider than those of an own net."""
        shared = shared_net(node)
        nets = [shared, *(node.net(name, architecture=name) for name in dict.fromkeys(node.experiment.architectures))]
        for net in nets:
            _ = net.classifier  # an InputError where it has none
            if net.feature_width < shared.feature_width:
                raise InputError(
                    f"nets: features of {net.architecture} are {net.feature_width} wide, those of the shared net "
                    f"{shared.architecture} {shared.feature_width}: make the shared ones at most as wide in "
                    "net_options, or name another shared_net"
                )

    def first_broadcast(self, server: Server) -> Knowledge:
        """The shared net as it is drawn."""
        return Knowledge.of("weights", put_under(SHARED, shared_net(server).state_dict()))

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of both losses, through both encoders and the projection; the shared net goes back."""
        shared, data = shared_net(client, tensors_under(broadcast, SHARED)), client.train.labelled()
        nets = nn.ModuleDict({**own_parts(client), "shared": shared})

        def loss(nets: Any, batch: Batch) -> dict[str, Tensor]:
            fused = fuse(nets, batch.inputs)  # (B, D)
            nested = fused[:, : nets["shared"].feature_width]  # (B, D_s)
            shared = batch.cross_entropy(nets["shared"].head("classifier", nested))
            return {
                "cross_entropy": batch.cross_entropy(nets["own"].head("classifier", fused)),
                "shared_cross_entropy": self.shared_weight * shared,
            }

        losses = fit(nets, data, loss)
        return Knowledge.of("weights", put_under(SHARED, shared.state_dict()), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean of the shared nets, weighted by sample counts."""
        return weighted_mean(uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """At a client its own classifier under what it fuses; the server has no own net to fuse with."""
        if not isinstance(node, Client):
            return {}
        nets: dict[str, Any] = {**own_parts(node), "shared": shared_net(node, tensors_under(broadcast, SHARED))}
        for net in nets.values():
            net.eval()
        return {"fused": Classifier(lambda inputs: nets["own"].head("classifier", fuse(nets, inputs)))}


def own_parts(client: Client) -> nn.ModuleDict:
    """What a client keeps to itself: its ``own`` net, and the ``projection`` of both nets' features to its width."""

    def build() -> nn.ModuleDict:
        own, shared = client.fresh_net(), shared_net(client)
        width = own.feature_width
        return nn.ModuleDict({"own": own, "projection": nn.Linear(shared.feature_width + width, width)})

    return client.module("own net and projection", build, keep=True)


def fuse(nets: Any, inputs: Inputs) -> Tensor:
    """The projection (B, D) of the features of the ``shared`` net and of the ``own`` one, in this order."""
    features = [nets[name].encoded(inputs) for name in ("shared", "own")]
    fused: Tensor = nets["projection"](torch.cat(features, dim=1))
    return fused
