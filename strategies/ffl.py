"""FFL: the feature maps of peers are fused by a classifier that all train together, and that teaches each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

from torch import Tensor, nn

from fedkd import Batch, Client, InputError, Knowledge, Needs, Positive, Server, Settings, Share, TensorSpec
from fedkd.losses import kd_loss
from fedkd.methods.peers.all_outputs import AllOutputs, PeerOutputs
from fedkd.methods.peers.family import LockstepStrategy
from fedkd.methods.peers.lockstep import Peer, gather, outputs_schema
from fedkd.methods.peers.maps import check_batches, check_maps, in_places, map_shapes
from fedkd.methods.peers.turns import UpdateName
from fedkd.methods.ramp import ramped
from fedkd.nets import Fusion
from fedkd.targets import mean_logits


@final
@dataclass(frozen=True)
class FFL(LockstepStrategy):
    """K peers with the same net; a classifier fuses their last feature maps, learns from their mean, and teaches them.

    Paper: Kim et al., "Feature Fusion for Online Mutual Knowledge Distillation", ICPR 2020, arXiv 1904.09058.
    What travels: logits and the last feature map, 4 B (C + c h w) bytes up and K times that down for each batch and
    peer; and a hash of the batch.
        sum over peers i of [ CE(z_i, y) + w T^2 KL(z_f || z_i) ] + CE(z_f, y) + w T^2 KL(mean_i z_i || z_f)
    z_f: the fusion's logits, constants where they teach, as the mean is. The fusion's own terms reach through the maps
    into every net: each peer has a replica of it, computes them with its own map live and the others' as constants, and
    so gets the gradient of training all in one process. Replicas start equal and stay equal, on one machine bit for
    bit, while no peer misses a round and ``train.clip`` is 0 (it scales by a norm that each peer has its own of).
    Defaults: T = 3; w rises to 1 over the first 80 of 300 epochs, here 0.27 of the rounds. The paper trains two nets by
    SGD, 0.1, Nesterov momentum 0.9, x 0.1 after epochs 150 and 225 of 128 images. ``accuracy`` is the nets' mean; no
    node has all nets, so the fused classifier is not evaluated. Who fails leaves until the next round, and is a map
    of zeros to the fusion.
    Deviations: nets are whole, as in the paper's general form; those of the official code share all but their last
    stage. The paper fuses nets of different maps too, by a 1x1 convolution. The code adds 1e-7 to the targets'
    probabilities, and its fusion has a weight decay of 1e-5 beside the nets' 1e-4: here both have that of [train].
    """

    temperature: Positive = 3.0  # T of softened predictions
    ramp: Share = 0.27  # share of the rounds until w is 1; 0 = from the start

    paper: ClassVar[str] = "Kim et al., ICPR 2020, arXiv 1904.09058"
    sends: ClassVar[str] = "logits and feature maps of every mini-batch, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, shared_data=True, equal_nets=True)
    update: ClassVar[UpdateName] = "simultaneous"

    def check(self, experiment: Settings) -> None:
        """Two peers, a net with feature maps, batches of two and more."""
        self.needs.check(type(self).__name__, experiment)
        if experiment.data.clients < 2:
            raise InputError("data.clients: FFL fuses the maps of several peers: set it to 2 or more")
        check_maps(experiment)
        check_batches("FFL", experiment)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Logits and the last map of this exchange's batch."""
        return outputs_schema(server, client, {"logits": (server.classes,), "map": map_shapes(server)[-1]}, self.update)

    def peer(self, client: Client) -> Peer:
        """A net with its replica of the fusion."""
        net, weight, peers_there = client.net(init="own", keep=True), ramped(client, self.ramp), client.experiment.data
        make_fusion = partial(Fusion, peers_there.clients, map_shapes(client)[-1][0], client.classes)
        fusion = client.module("fusion", make_fusion, keep=True)

        def forward(batch: Batch) -> PeerOutputs:
            outputs = net.outputs(batch.inputs)
            return {"logits": outputs.logits, "map": outputs.activated[-1]}  # (B, C), (B, c, h, w)

        def loss(own: PeerOutputs, peers: AllOutputs, batch: Batch) -> dict[str, Tensor]:
            maps = in_places(peers.ids, peers.with_mine("map", own["map"]), peers_there.clients)  # (B, K, c, h, w)
            fused = fusion(maps)[1]  # (B, C)
            mean = mean_logits(peers.tensors["logits"]).logits()  # (B, C)
            return {
                "cross_entropy": batch.cross_entropy(own["logits"]),
                "distillation": weight * kd_loss(own["logits"], fused, temperature=self.temperature),
                "fusion_cross_entropy": batch.cross_entropy(fused),
                "fusion_distillation": weight * kd_loss(fused, mean, temperature=self.temperature),
            }

        return Peer(nn.ModuleDict({"net": net, "fusion": fusion}), forward, loss, weight)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """Stack logits and maps by peer."""
        return gather(server, uploads, self.update)
