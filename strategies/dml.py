"""DML: peers learn from each other's logits on every mini-batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import Batch, Client, Knowledge, Needs, NonNegative, Positive, Server, TensorSpec
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses.distillers import LogitLossName, logit_loss
from fedkd.methods.peers.all_outputs import AllOutputs, PeerOutputs
from fedkd.methods.peers.family import LockstepStrategy
from fedkd.methods.peers.lockstep import Peer, gather, outputs_schema
from fedkd.methods.peers.turns import UpdateName
from fedkd.methods.ramp import ramped
from fedkd.targets import mean_probs


@final
@dataclass(frozen=True)
class DML(LockstepStrategy):
    """K peers, of any architectures, take the same batches; each learns from labels and from the others' predictions.

    Paper: Zhang et al., "Deep Mutual Learning", CVPR 2018, arXiv 1706.00384.
    What travels: logits, 4 B C bytes up and 4 K B C bytes down for each batch and peer, and a hash of the batch.
        loss_i = CE(z_i, y) + weight / (K - 1) sum over j != i of KL(z_j || z_i)      at T = 1
    ``target = "ensemble"`` is the paper's DML_e: one KL, to the mean of the others' probabilities. The others' logits
    are constants.
    ``update``: "simultaneous", all learn from a batch at once; "sequential", the paper's algorithm 1, one after the
    other, each from logits that those before it have renewed (K - 1 more forward passes a batch, in train mode, not
    moving BatchNorm's statistics; drawn order instead of 1 .. K; K times the exchanges); "alternating", as the official
    code takes a new batch for each net's step: a batch teaches one peer, so that a peer takes one step in K.
    Peers start from different weights; nets and optimisers stay over rounds. Who fails leaves until the next round.
    With one peer, or weight 0, this is cross-entropy.
    Deviations: simultaneous by default, as in most ports. The official code (TensorFlow, two nets) adds the KLs up
    without 1 / (K - 1) and 1e-8 inside the logarithm. ``ramp`` and ``loss`` are ours.
    """

    target: Literal["pairwise", "ensemble"] = "pairwise"  # each other peer, or their mean
    update: UpdateName = "simultaneous"  # who learns when: all at once, one after the other, or one peer a batch
    loss: LogitLossName = "kd"  # a loss on logits, by name: see `fedkd losses`
    temperature: Positive = 1.0  # of that loss, if it has one; the KL is multiplied by T^2
    weight: NonNegative = 1.0  # of the distillation beside the cross-entropy
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.0  # the weight grows over this share of the rounds

    paper: ClassVar[str] = "Zhang et al., CVPR 2018, arXiv 1706.00384"
    sends: ClassVar[str] = "logits of every mini-batch, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, shared_data=True)
    idle: ClassVar[Idle] = {
        "target": (Unless(weight=0),),
        "loss": (Unless(weight=0),),
        "temperature": (Unless(weight=0),),
        "ramp": (Unless(weight=0),),
    }

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Logits of this exchange's batch."""
        return outputs_schema(server, client, {"logits": (server.classes,)}, self.update)

    def peer(self, client: Client) -> Peer:
        """A net that learns from labels and from the others' logits."""
        net, weight = client.net(init="own", keep=True), self.weight * ramped(client, self.ramp)
        distil = logit_loss(self.loss, temperature=self.temperature)

        def loss(own: PeerOutputs, peers: AllOutputs, batch: Batch) -> dict[str, Tensor]:
            mine, others = own["logits"], peers.others("logits")  # (B, C), (K - 1, B, C)
            if self.target == "ensemble" and len(others):
                others = mean_probs(others, temperature=self.temperature).logits(self.temperature)[None]  # (1, B, C)
            distances = [distil(mine, other) for other in others.unbind()] or [torch.zeros((), device=mine.device)]
            return {
                "cross_entropy": batch.cross_entropy(mine),
                "distillation": weight * torch.stack(distances).mean(),
            }

        return Peer(net, lambda batch: {"logits": net(batch.inputs)}, loss, weight)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """Stack the logits by peer."""
        return gather(server, uploads, self.update)
