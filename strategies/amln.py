"""AMLN: peers learn each other's predictions, and block by block each other's feature maps against discriminators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd import Batch, Client, Knowledge, Needs, NonNegative, Positive, Server, Settings, TensorSpec
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import kd_loss
from fedkd.methods.peers.adversarial import Discriminator, fooling_loss, telling_loss
from fedkd.methods.peers.all_outputs import AllOutputs, PeerOutputs
from fedkd.methods.peers.apart import Apart, scheduled
from fedkd.methods.peers.family import LockstepStrategy
from fedkd.methods.peers.lockstep import Peer, gather, outputs_schema
from fedkd.methods.peers.maps import Shape, check_batches, check_maps, common_shapes, map_shapes
from fedkd.methods.peers.turns import UpdateName


@final
@dataclass(frozen=True)
class AMLN(LockstepStrategy):
    """K peers, of any architectures; after each block a discriminator tells a peer's aligned map from the others'.

    Paper: Zhang et al., "AMLN: Adversarial-Based Mutual Learning Network for Online Knowledge Distillation", ECCV 2020.
    No code of it was found, nor its text but for the abstract: that peers learn from each other block by block against
    discriminators ("process-driven") and their predictions ("outcome-driven") is from there, the formulas are AFD's.
    What travels: logits and the aligned map of every block, 4 B (C + sum over blocks of c h w) bytes up and K times
    that down for each batch and peer; and a hash of the batch.
        peer k: CE(z_k, y) + T^2 mean over j != k of KL(z_j || z_k) + weight sum over b of mean (1 - D_kb(a_kb))^2
        discriminator of block b, by Adam: mean (1 - D_kb(a_jb))^2 over the others j + mean D_kb(a_kb)^2
    a_kb: the map after block b through an alignment of its own, a 1x1 convolution, BatchNorm and ReLU, which the peer's
    loss trains. Alignments lead to the fewest channels, and pooling to the smallest height and width that any of the
    nets has there; of nets with unequally many maps the last ones count. What is received is constant. Peer and
    discriminators take their gradients from one pass. Only the nets are evaluated.
    Peers start different; nets, alignments, discriminators and optimisers stay. Who fails leaves until the next round.
    A peer alone learns its labels.
    Deviations: the paper has two peers. Squared errors, T = 1, the weights and Adam's rate are ours.
    """

    temperature: Positive = 1.0  # T of softened predictions
    weight: NonNegative = 0.1  # of passing for the others, summed over blocks
    discriminator_lr: Positive = 1e-3  # Adam's rate for discriminators, before the schedule

    paper: ClassVar[str] = "Zhang et al., ECCV 2020"
    sends: ClassVar[str] = "logits and aligned feature maps of every mini-batch, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, shared_data=True)
    update: ClassVar[UpdateName] = "simultaneous"
    idle: ClassVar[Idle] = {"discriminator_lr": (Unless(weight=0),)}

    def check(self, experiment: Settings) -> None:
        """Nets with feature maps, batches of two and more."""
        self.needs.check(type(self).__name__, experiment)
        check_maps(experiment)
        check_batches("AMLN", experiment)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Logits of this exchange's batch, and the aligned maps."""
        shapes = common_shapes(server)
        maps = dict(zip(names_of(shapes), shapes, strict=True))
        return outputs_schema(server, client, {"logits": (server.classes,), **maps}, self.update)

    def peer(self, client: Client) -> Peer:
        """A net with an alignment and a discriminator for each block."""
        net, shapes = client.net(init="own", keep=True), common_shapes(client)
        own_channels = [shape[0] for shape in map_shapes(client, client.architecture)]
        align = client.module("align", partial(Alignments, own_channels, shapes), init="own", keep=True)
        judges = client.module("discriminators", partial(discriminators, shapes), init="own", keep=True)

        def forward(batch: Batch) -> PeerOutputs:
            outputs = net.outputs(batch.inputs)
            return {"logits": outputs.logits, **dict(zip(names_of(shapes), align(outputs.activated), strict=True))}

        def loss(own: PeerOutputs, peers: AllOutputs, batch: Batch) -> dict[str, Tensor]:
            mine, others = own["logits"], peers.others("logits")  # (B, C), (K - 1, B, C)
            none = mine.new_zeros(())  # a constant: its optimiser takes no step
            if not len(others):
                names = ("distillation", "adversarial", "discriminator")
                return {"cross_entropy": batch.cross_entropy(mine), **dict.fromkeys(names, none)}
            learned = [kd_loss(mine, other, temperature=self.temperature) for other in others.unbind()]
            fooled, told = [], []
            for judge, name in zip(judges, names_of(shapes), strict=True):
                fooled.append(fooling_loss(judge, own[name]))
                told.append(telling_loss(judge, own[name], peers.others(name).flatten(0, 1)))
            return {
                "cross_entropy": batch.cross_entropy(mine),
                "distillation": torch.stack(learned).mean(),
                "adversarial": self.weight * torch.stack(fooled).sum(),
                "discriminator": torch.stack(told).sum(),
            }

        settings = {"kind": "adam", "lr": scheduled(client, self.discriminator_lr)}
        learners = nn.ModuleDict({"net": net, "align": align})
        everything = nn.ModuleDict({**learners, "discriminators": judges})
        own = partial(client.optimizer, "peer", learners)  # a discriminator in it would learn to be fooled
        apart = {"discriminators": Apart(judges, ("discriminator",), settings)}
        return Peer(everything, forward, loss, optimizer=own, apart=apart)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """Stack logits and maps by peer."""
        return gather(server, uploads, self.update)


def names_of(shapes: Sequence[Shape]) -> list[str]:
    """What the aligned maps are called, first to last."""
    return [f"map {block}" for block in range(len(shapes))]


@final
class Alignments(nn.Module):
    """Brings the last maps of a net to common shapes: a 1x1 convolution, BatchNorm, ReLU and pooling for each.

    Args:
        channels: of the net's maps, first to last.
        shapes: (c, h, w) that its last maps are to have.

    >>> maps = [torch.zeros(5, 4, 8, 8), torch.zeros(5, 8, 4, 4)]
    >>> [tuple(held.shape) for held in Alignments([4, 8], [(6, 2, 2)])(maps)]
    [(5, 6, 2, 2)]
    """

    def __init__(self, channels: Sequence[int], shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.sizes = [shape[1:] for shape in shapes]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after[0], 1, bias=False), nn.BatchNorm2d(after[0]), nn.ReLU())
            for before, after in zip(channels[-len(shapes) :], shapes, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, c, h, w) of these shapes."""
        last = maps[-len(self.layers) :]
        told = zip(self.layers, last, self.sizes, strict=True)
        return [F.adaptive_avg_pool2d(layer(held), size) for layer, held, size in told]


def discriminators(shapes: Sequence[Shape]) -> nn.ModuleList:
    """One for each block."""
    return nn.ModuleList(Discriminator(shape[0]) for shape in shapes)
