"""AFD: peers learn each other's logits, and the distribution of each other's feature maps against discriminators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd import Batch, Client, Knowledge, Needs, NonNegative, Positive, Server, Settings, TensorSpec
from fedkd.losses import kd_loss
from fedkd.methods.peers.adversarial import Discriminator, fooling_loss, telling_loss
from fedkd.methods.peers.all_outputs import AllOutputs, PeerOutputs
from fedkd.methods.peers.apart import Apart, scheduled
from fedkd.methods.peers.family import LockstepStrategy
from fedkd.methods.peers.lockstep import Peer, gather, outputs_schema
from fedkd.methods.peers.maps import check_maps, common_shapes, map_shapes, with_one_map
from fedkd.methods.peers.turns import UpdateName


@final
@dataclass(frozen=True)
class AFD(LockstepStrategy):
    """K peers, of any architectures; peer k's discriminator tells its last map from that of the peer before it.

    Paper: Chung et al., "Feature-map-level Online Adversarial Knowledge Distillation", ICML 2020, arXiv 2002.01775; no
    official code: formulas and numbers as an unofficial one has them.
    What travels: logits and the last map, 4 B (C + c h w) bytes up for each batch and peer; down all logits and one
    map, 4 B (K C + c h w). And a hash of the batch.
        logits, by [train]:        CE(z_k, y) + T^2 mean over j != k of KL(z_j || z_k)
        features, by Adam:         mean_b (1 - D_k(f_k))^2, for the net up to its features, not its classifier
        discriminator, by Adam:    mean_b [ (1 - D_k(f_j))^2 + D_k(f_k)^2 ],   f_j of the peer before k in the ring
    What is received is constant. Each loss has an optimiser of its own; one for all would be another method. All three
    take their gradients from one pass, and then step.
    Maps of different nets are brought to the fewest channels by a 1x1 convolution of each net that has more, which the
    feature loss trains, and averaged down to the smallest height and width; so maps of that size travel.
    Defaults: T = 3; Adam's rate 2e-5, times the schedule, and weight decay 0.1: made for 300 epochs, they do little in
    a short run. Peers start different; nets, discriminators, optimisers stay. Who fails leaves until the next round,
    and the ring closes. A peer alone learns its labels.
    Deviations: the mean over the others where there are more than two; that the ring goes from k to k + 1 is from
    memory. Discriminators have no BatchNorm, and pool. That code adds both losses up before it goes back, so that each
    of its two optimisers descends the sum, and does not cut off the other's map.
    """

    temperature: Positive = 3.0  # T of softened predictions
    feature_lr: Positive = 2e-5  # Adam's rate for features and discriminators, before the schedule
    feature_decay: NonNegative = 0.1  # its weight decay

    paper: ClassVar[str] = "Chung et al., ICML 2020, arXiv 2002.01775"
    sends: ClassVar[str] = "logits and feature maps of every mini-batch"
    needs: ClassVar[Needs] = Needs(labels=True, shared_data=True)
    update: ClassVar[UpdateName] = "simultaneous"

    def check(self, experiment: Settings) -> None:
        """Nets with feature maps."""
        self.needs.check(type(self).__name__, experiment)
        check_maps(experiment)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Logits and the last map of this exchange's batch."""
        return outputs_schema(
            server, client, {"logits": (server.classes,), "map": common_shapes(server)[-1]}, self.update
        )

    def peer(self, client: Client) -> Peer:
        """A net, its way to the common shape, and its discriminator."""
        net, shape = client.net(init="own", keep=True), common_shapes(client)[-1]
        channels = map_shapes(client, client.architecture)[-1][0]
        transfer = client.module("transfer", partial(transfer_layer, channels, shape[0]), init="own", keep=True)
        discriminator = client.module("discriminator", partial(Discriminator, shape[0]), init="own", keep=True)

        def forward(batch: Batch) -> PeerOutputs:
            outputs = net.outputs(batch.inputs)
            held = F.adaptive_avg_pool2d(transfer(outputs.activated[-1]), shape[1:])  # (B, c, h, w)
            return {"logits": outputs.logits, "map": held}

        def loss(own: PeerOutputs, peers: AllOutputs, batch: Batch) -> dict[str, Tensor]:
            mine, others, held = own["logits"], peers.others("logits"), own["map"]
            learned = [kd_loss(mine, other, temperature=self.temperature) for other in others.unbind()]
            before = peers.beside.get("map")  # (B, c, h, w), where anybody else is there
            none = held.new_zeros(())  # a constant: its optimiser takes no step
            return {
                "cross_entropy": batch.cross_entropy(mine),
                "distillation": torch.stack(learned).mean() if learned else mine.sum() * 0,
                "adversarial": none if before is None else fooling_loss(discriminator, held),
                "discriminator": none if before is None else telling_loss(discriminator, held, before),
            }

        settings = {"kind": "adam", "lr": scheduled(client, self.feature_lr), "weight_decay": self.feature_decay}
        features = nn.ModuleDict({"encoder": net.encoder, "transfer": transfer})
        apart = {
            "features": Apart(features, ("adversarial",), settings),
            "discriminator": Apart(discriminator, ("discriminator",), settings),
        }
        everything = nn.ModuleDict({"net": net, "transfer": transfer, "discriminator": discriminator})
        return Peer(everything, forward, loss, apart=apart)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """To each peer all logits, and the map of the one before it."""
        told = gather(server, uploads, self.update)
        assert isinstance(told, Knowledge)
        return {peer: with_one_map(told, before_in_ring(peer, uploads)) for peer in uploads}


def transfer_layer(channels: int, common: int) -> nn.Module:
    """From a net's channels to the common ones; nothing where it has just as many.

    >>> transfer_layer(8, 8), transfer_layer(16, 8).weight.shape
    (Identity(), torch.Size([8, 16, 1, 1]))
    """
    return nn.Identity() if channels == common else nn.Conv2d(channels, common, 1, bias=False)


def before_in_ring(me: int, ids: Iterable[int]) -> int | None:
    """Whom a peer learns from where those who are there sit in a ring; None for one alone.

    >>> before_in_ring(2, [0, 2, 3]), before_in_ring(0, [0, 2, 3]), before_in_ring(1, [1])
    (0, 3, None)
    """
    others = sorted({*ids} - {me})
    smaller = [peer for peer in others if peer < me]
    return max(smaller or others, default=None)
