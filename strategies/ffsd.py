"""FFSD: students learn from each other, their feature maps are fused, and what is made of them teaches a leader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd import Batch, Client, Knowledge, Needs, NonNegative, Positive, Server, Settings, Share, TensorSpec
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import at_loss, kd_loss
from fedkd.losses.rows import unit_rows
from fedkd.losses.spatial import maps_of_one_size
from fedkd.methods.peers.all_outputs import AllOutputs, PeerOutputs
from fedkd.methods.peers.apart import Apart, scheduled
from fedkd.methods.peers.family import LockstepStrategy
from fedkd.methods.peers.lockstep import Peer, gather, outputs_schema
from fedkd.methods.peers.maps import Shape, check_batches, check_maps, in_places, map_shapes, with_one_map
from fedkd.methods.peers.turns import UpdateName
from fedkd.methods.ramp import ramped
from fedkd.nets import Fusion, Net, separable
from fedkd.targets import mean_logits

#: How decoders are trained, as in the official code.
DECODER_LR = 1e-3

PeerLoss = Callable[[PeerOutputs, AllOutputs, Batch], Mapping[str, Tensor]]


@final
@dataclass(frozen=True)
class FFSD(LockstepStrategy):
    """The last of K clients is the leader, the others are students; a module at the leader fuses all students' maps.

    Paper: Li et al., "Distilling a Powerful Student Model via Online Knowledge Distillation", arXiv 2103.14473; the
    official code on CIFAR.
    What travels: for each batch up, of a student, logits and its last feature map, 4 B (C + c h w) bytes, of the leader
    nothing; down, to the leader, all of it, 4 S B (C + c h w) bytes for S students; to a student all logits and the map
    of the student before it, 4 B (S C + c h w), to the first 4 S B C. And a hash of the batch.
        student i: CE(z_i, y) + T^2 mean over j != i of KL(z_j || z_i), and from the second student on
                   d diversity(f_i, f_{i-1}) + d sum over earlier maps of AT(map, D_i(f_{i-1} shifted))
        fusion:    CE(z_f, y) + T^2 KL(mean_i z_i || z_f)
        leader:    CE(z, y) + T^2 KL(z_f || z) + a [ AT(f, f_f) + AT(spread(f), all f_i)
                   + sum over earlier maps of AT(map, D(f_f)) ]
    All targets and all maps that were received are constants: the fusion moves no student. AT compares attention maps,
    the mean over channels of squares, as unit vectors. Diversity: a student's attention is pulled to another's, of
    which each share s above the lowest third became 1 - s. D: a decoder that makes the earlier maps of the last one,
    by transposed convolutions; a teacher in eval mode, and trained apart (Adam, 0.001 times the schedule) on its own
    net's maps, that are constants.
    Defaults: T = 2, d = 1e-5, a = 10; both grow over the first 5 of 300 epochs. ``accuracy`` is the mean of all nets';
    the leader's is the last of ``peer_accuracies``. The fusion is at no node that has all nets, and is not evaluated.
    All have the same net. Who fails leaves for the round; a student who is missing is a map of zeros to the fusion.
    Deviations: shares, of unit vectors, are flipped about one half; the code flips them about half the length that the
    vector had before. The paper's text was not at hand. The fusion has the weight decay of [train], there 1e-5.
    The decoder's own loss has no weight of 1000, which Adam's steps do not feel. Decoders halve no channels but make
    those of the maps; a net with one map has none.
    """

    temperature: Positive = 2.0  # T of softened predictions
    diversity_weight: NonNegative = 1e-5  # d, of looking elsewhere than the student before, where there are two
    fusion_weight: NonNegative = 10.0  # a, of looking where the fused map does
    ramp: Share = 0.017  # share of the rounds over which d and a grow; 0 = from the start

    paper: ClassVar[str] = "Li et al., arXiv 2103.14473"
    sends: ClassVar[str] = "logits and feature maps of every mini-batch"
    needs: ClassVar[Needs] = Needs(labels=True, shared_data=True, equal_nets=True)
    update: ClassVar[UpdateName] = "simultaneous"
    idle: ClassVar[Idle] = {"ramp": (Unless(diversity_weight=0, fusion_weight=0),)}

    def check(self, experiment: Settings) -> None:
        """A net with feature maps, batches of two and more."""
        self.needs.check(type(self).__name__, experiment)
        check_maps(experiment)
        check_batches("FFSD", experiment)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A student's logits and last map; nothing of the leader."""
        if client == students_of(server.experiment):
            return {}
        return outputs_schema(server, client, {"logits": (server.classes,), "map": map_shapes(server)[-1]}, self.update)

    def peer(self, client: Client) -> Peer:
        """A student, or the leader."""
        net, grown = client.net(init="own", keep=True), ramped(client, self.ramp)
        if client.id == students_of(client.experiment):
            return self._leader(client, net, self.fusion_weight * grown)
        return self._student(client, net, self.diversity_weight * grown)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """All to the leader; to a student the logits, and the map of the one before it."""
        leader = students_of(server.experiment)
        students = {client: upload for client, upload in uploads.items() if client != leader}
        told = gather(server, students, self.update)
        assert isinstance(told, Knowledge)
        return {client: told if client == leader else with_one_map(told, client - 1) for client in uploads}

    def _student(self, client: Client, net: Net, weight: float) -> Peer:
        shapes, parts = map_shapes(client), nn.ModuleDict({"net": net})
        if client.id and len(shapes) > 1:
            parts["decoder"] = client.module("decoder", partial(Decoder, shapes), init="own", keep=True)

        def loss(own: PeerOutputs, peers: AllOutputs, batch: Batch) -> dict[str, Tensor]:
            mine, others, none = own["logits"], peers.others("logits"), own["map"].sum() * 0
            learned = [kd_loss(mine, other, temperature=self.temperature) for other in others.unbind()]
            found = {
                "cross_entropy": batch.cross_entropy(mine),
                "distillation": torch.stack(learned).mean() if learned else none,
            }
            if not client.id:
                return found
            before = peers.beside.get("map")  # (B, c, h, w), where the student before is there
            found["diversity"] = none if before is None else weight * shifted_attention_loss(own["map"], before)
            if "decoder" in parts:
                apart = none if before is None else follow(parts["decoder"], shift_attention(before), earlier(own))
                found |= {"self_distillation": weight * apart, "decoder": decoder_loss(parts["decoder"], own)}
            return found

        return peer_of(client, parts, loss)

    def _leader(self, client: Client, net: Net, weight: float) -> Peer:
        shapes, students = map_shapes(client), students_of(client.experiment)
        width, parts = shapes[-1][0], nn.ModuleDict({"net": net})
        if students:
            make_fusion = partial(Fusion, students, width, client.classes)
            parts["fusion"] = client.module("fusion", make_fusion, init="own", keep=True)
            make_spread = partial(separable, width, students * width)
            parts["spread"] = client.module("spread", make_spread, init="own", keep=True)
        if len(shapes) > 1:
            parts["decoder"] = client.module("decoder", partial(Decoder, shapes), init="own", keep=True)

        def loss(own: PeerOutputs, peers: AllOutputs, batch: Batch) -> dict[str, Tensor]:
            mine, none = own["logits"], own["map"].sum() * 0
            decoded = {"decoder": decoder_loss(parts["decoder"], own)} if "decoder" in parts else {}
            if not peers.ids:
                names = ("distillation", "fusion_cross_entropy", "fusion_distillation", *ATTENTIONS)
                return {"cross_entropy": batch.cross_entropy(mine), **dict.fromkeys(names, none), **decoded}
            maps = in_places(peers.ids, peers.tensors["map"], students)  # (B, S, c, h, w)
            fused, fused_logits = parts["fusion"](maps)  # (B, c, h, w), (B, C)
            mean = mean_logits(peers.tensors["logits"]).logits()
            spread = parts["spread"](own["map"])  # (B, S c, h, w)
            apart = follow(parts["decoder"], fused.detach(), earlier(own)) if "decoder" in parts else none
            attentions = (at_loss(own["map"], fused), at_loss(spread, maps.flatten(1, 2)), apart)
            return {
                "cross_entropy": batch.cross_entropy(mine),
                "distillation": kd_loss(mine, fused_logits, temperature=self.temperature),
                "fusion_cross_entropy": batch.cross_entropy(fused_logits),
                "fusion_distillation": kd_loss(fused_logits, mean, temperature=self.temperature),
                **{name: weight * each for name, each in zip(ATTENTIONS, attentions, strict=True)},
                **decoded,
            }

        return peer_of(client, parts, loss, withheld=("logits", "map"))


#: The leader's terms on attention, which the same weight multiplies.
ATTENTIONS = ("attention", "spread_attention", "self_distillation")


def students_of(experiment: Settings) -> int:
    """How many students there are, and with that the id of the leader: the last client."""
    return experiment.data.clients - 1


# ---- what a peer computes: its logits, its last map, and the maps before it, which it keeps to itself


def outputs_of(net: Net, batch: Batch) -> dict[str, Tensor]:
    """Logits (B, C), the last map and the earlier ones, (B, c, h, w) each, after their ReLU, in one pass."""
    outputs = net.outputs(batch.inputs)
    *first, last = outputs.activated
    return {"logits": outputs.logits, "map": last, **{f"earlier {place}": held for place, held in enumerate(first)}}


def earlier(own: PeerOutputs) -> list[Tensor]:
    """The maps before the last, first to last."""
    return [held for name, held in own.items() if name.startswith("earlier")]


def peer_of(client: Client, parts: nn.ModuleDict, loss: PeerLoss, *, withheld: tuple[str, ...] = ()) -> Peer:
    """A peer that trains these parts, the decoder apart."""
    net: Any = parts["net"]
    hidden = tuple(f"earlier {place}" for place in range(len(map_shapes(client)) - 1))
    apart = {}
    if "decoder" in parts:
        apart["decoder"] = Apart(parts["decoder"], ("decoder",), {"kind": "adam", "lr": scheduled(client, DECODER_LR)})
    return Peer(parts, partial(outputs_of, net), loss, withheld=(*withheld, *hidden), apart=apart)


# ---- attention: where a map is large


def attention(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over channels of squares of maps (B, c, h, w), as unit rows (B, h w), and their lengths (B, 1)."""
    held = maps.float().square().mean(1).flatten(1)
    return unit_rows(held), torch.linalg.vector_norm(held, dim=1, keepdim=True)


def shifted(shares: Tensor) -> Tensor:
    """To look elsewhere: each share above the lowest third of its row becomes one minus itself, their highest a half.

    Args:
        shares: (B, N), unit rows, at least 0.

    >>> shifted(torch.tensor([[0.1, 0.2, 0.3, 0.9]]))
    tensor([[0.5000, 0.8000, 0.7000, 0.1000]])
    """
    lowest = shares.topk(max(1, shares.shape[1] // 3), largest=False).values[:, -1:]
    return (0.5 - shares) * torch.sign(shares - lowest) + 0.5


def shifted_attention_loss(maps: Tensor, other: Tensor) -> Tensor:
    """The mean squared distance of a student's attention to another's that was shifted; that one is a constant.

    Args:
        maps: (B, c, h, w).
        other: (B, c', h, w), of the same samples.

    Returns:
        () float32, at least 0.
    """
    return F.mse_loss(attention(maps)[0], shifted(attention(other.detach())[0]))


def shift_attention(maps: Tensor) -> Tensor:
    """The maps (B, c, h, w), with the same added to all channels: what their attention lacks of the shifted one."""
    shares, length = attention(maps)
    change = (shifted(shares) - shares) * length / maps.shape[1]  # (B, h w)
    return maps + change.view(len(maps), 1, *maps.shape[2:])


# ---- decoders: from the last map back to those before it


@final
class Decoder(nn.Module):
    """Makes the earlier maps of a net from its last: a transposed convolution, BatchNorm and ReLU for each.

    Args:
        shapes: (c, h, w) of the net's maps, first to last. A side that is larger before is doubled.

    >>> [tuple(made.shape) for made in Decoder([(4, 8, 8), (8, 4, 4), (16, 2, 2)])(torch.zeros(5, 16, 2, 2))]
    [(5, 4, 8, 8), (5, 8, 4, 4)]
    """

    def __init__(self, shapes: Sequence[Shape]) -> None:
        super().__init__()
        backwards = [*reversed(shapes)]
        self.layers = nn.ModuleList(map(_doubling, backwards[:-1], backwards[1:]))

    def forward(self, last: Tensor) -> list[Tensor]:
        """The earlier maps, first to last, of the last (B, c, h, w)."""
        made = [last]
        for layer in self.layers:
            made.insert(0, layer(made[0]))
        return made[:-1]


def _doubling(deep: Shape, shallow: Shape) -> nn.Sequential:
    """A layer from a map to the one before it."""
    doubled = [before > after for before, after in zip(shallow[1:], deep[1:], strict=True)]
    stride, more = (2 if doubled[0] else 1, 2 if doubled[1] else 1), (int(doubled[0]), int(doubled[1]))
    convolution = nn.ConvTranspose2d(deep[0], shallow[0], 3, stride, padding=1, output_padding=more, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(shallow[0]), nn.ReLU())


def follow(decoder: nn.Module, deep: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """How far the attention of a net's earlier maps is from what a decoder makes of a last map, summed; ()."""
    decoder.eval()
    with torch.no_grad():
        made = decoder(deep)
    decoder.train()
    return sum((at_loss(own, target) for own, target in zip(maps, made, strict=True)), start=maps[0].sum() * 0)


def decoder_loss(decoder: nn.Module, own: PeerOutputs) -> Tensor:
    """How far what a decoder makes is from a net's own maps: attention, and whole maps as unit vectors; ()."""
    made = zip(decoder(own["map"].detach()), earlier(own), strict=True)
    return torch.stack([at_loss(mine, real) + direction_loss(mine, real) for mine, real in made]).sum()


def direction_loss(made: Tensor, real: Tensor) -> Tensor:
    """The mean squared difference of maps (B, c, h, w) and (B, c, h', w') as unit vectors, the latter constant; ()."""
    mine, theirs = maps_of_one_size("direction_loss", made, real)
    return F.mse_loss(unit_rows(mine.flatten(1)), unit_rows(theirs.flatten(1)))
