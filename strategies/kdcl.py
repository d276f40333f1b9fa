"""KDCL: peers learn from one target, made of all their logits, each from its own view of the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import Batch, Client, Knowledge, Needs, NonNegative, Positive, Server, Settings, TensorSpec, predict
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import kd_loss
from fedkd.methods.peers.all_outputs import AllOutputs, PeerOutputs
from fedkd.methods.peers.family import LockstepStrategy
from fedkd.methods.peers.lockstep import BESIDE, Peer, begin, gather, outputs_schema
from fedkd.methods.peers.turns import UpdateName
from fedkd.methods.ramp import ramped
from fedkd.nets import Net
from fedkd.targets import Evidence, covariance_weights, rule_named

#: The paper's names of targets -> those of fedkd.targets; "mean" is that of a well-known reproduction.
TARGETS = {
    "naive": "lowest_loss",
    "linear": "linear",
    "min_logit": "min_logit",
    "general": "weighted",
    "mean": "mean_logits",
}
#: Logits (V, C) of the validation samples in an upload. They are not of the exchange's batch.
VALIDATION = BESIDE + "validation"


@final
@dataclass(frozen=True)
class KDCL(LockstepStrategy):
    """K peers, of any architectures, take the same samples; the logits of all become one target that all learn from.

    Paper: Guo et al., "Online Knowledge Distillation via Collaborative Learning", CVPR 2020; no official code, formulas
    as usually stated.
    What travels: logits, 4 B C bytes up and 4 K B C bytes down for each batch and peer, and a hash of the batch; for
    "general" 4 V C bytes of logits on the V validation samples up in a round's first exchange, and 4 K bytes of shares
    down in each.
        loss_k = CE(z_k, y) + weight T^2 KL(softmax(t / T) || softmax(z_k / T)),   t a constant, for each sample
    "naive": t is the logits of the peer with the least cross-entropy; "linear": the convex combination with the least;
    "min_logit": the least logit of each class, all relative to the label's; "general": the mixture of probabilities of
    least expected squared error on the validation set, by the covariance of the peers' errors before this round;
    "mean": mean logits.
    Each peer sees a view of its own of the same samples (``data.views``), or with ``own_views = false`` the samples
    themselves. Peers start from different weights; nets and optimisers stay over rounds. Who fails leaves until the
    next round and takes its share along. With one peer, or weight 0, this is cross-entropy.
    Deviations: "linear" is solved to its end, where a few gradient steps were taken; "general" adds a ridge, and cuts
    shares off at 0 (fedkd.targets). ``ramp`` is ours.
    """

    target: Literal["naive", "linear", "min_logit", "general", "mean"] = "min_logit"  # what the peers learn together
    temperature: Positive = 2.0  # T of softened predictions
    weight: NonNegative = 1.0  # of the distillation beside the cross-entropy
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.0  # the weight grows over this share of the rounds
    own_views: bool = True  # whether each peer sees a random view of its own

    paper: ClassVar[str] = "Guo et al., CVPR 2020"
    sends: ClassVar[str] = "logits of every mini-batch, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, shared_data=True, uses=("views", "validation"))
    update: ClassVar[UpdateName] = "simultaneous"
    idle: ClassVar[Idle] = {
        **dict.fromkeys(("target", "temperature", "ramp"), (Unless(weight=0),)),
        "views": (Unless(own_views=False),),
    }

    def check(self, experiment: Settings) -> None:
        """The general target needs a validation set."""
        replace(self.needs, validation=self.target == "general").check("KDCL", experiment)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Logits of this exchange's batch, and in the first exchange those of the validation set, where it is used."""
        schema = outputs_schema(server, client, {"logits": (server.classes,)}, self.update)
        if self.target == "general" and not server.exchange:
            shape = (len(server.validation), server.classes)
            schema[VALIDATION] = TensorSpec(shape, torch.float32, "logits")
        return schema

    def peer(self, client: Client) -> Peer:
        """A net that learns from labels and from the target of all logits."""
        net, weight = client.net(init="own", keep=True), self.weight * ramped(client, self.ramp)

        def forward(batch: Batch) -> PeerOutputs:
            return {"logits": net(batch.view(client.id) if self.own_views else batch.inputs)}  # (B, C)

        def loss(own: PeerOutputs, peers: AllOutputs, batch: Batch) -> dict[str, Tensor]:
            mine, everybodys = own["logits"], peers.tensors["logits"]  # (B, C), (K, B, C)
            evidence = Evidence(everybodys, self.temperature, batch.labels, weights=peers.beside.get("shares"))
            target = rule_named(TARGETS[self.target]).function(evidence).logits(self.temperature)  # (B, C)
            factor = 0.0 if len(everybodys) == 1 else weight  # alone a peer learns from labels only
            distillation = factor * kd_loss(mine, target, temperature=self.temperature)
            return {"cross_entropy": batch.cross_entropy(mine), "distillation": distillation}

        validated = self.target == "general" and not client.exchange
        beside = {VALIDATION: validation_logits(client, net)} if validated else {}
        return Peer(net, forward, loss, weight, beside=beside)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """Stack the logits by peer; in the first exchange find the peers' shares."""
        beside = {"shares": peer_shares(server, uploads)} if self.target == "general" else {}
        return gather(server, uploads, self.update, beside)


def validation_logits(client: Client, net: Net) -> Tensor:
    """The net's logits (V, C) of the validation set, in eval mode, at a round's beginning.

    Ask before the net takes its turn: a training pass moves BatchNorm's statistics, and with them these logits.
    """
    begin(client, net)
    return predict(net.eval(), client.validation.samples, client.work())


def peer_shares(server: Server, uploads: Mapping[int, Knowledge]) -> Tensor:
    """The shares (K,) of these peers in the mixture of least expected error, by their logits of this round's beginning.

    Who left since then takes its share along: those of the others need not sum to one.
    """
    if server.exchange == 0:
        samples = server.validation.samples
        logits = torch.stack([upload.tensors[VALIDATION] for _, upload in sorted(uploads.items())])  # (K, V, C)
        weights = covariance_weights(logits, samples.labels[samples.indices])
        server.set_live("shares of peers", dict(zip(sorted(uploads), weights.tolist(), strict=True)))
    shares: Mapping[int, float] = server.live("shares of peers", dict)
    return torch.tensor([shares[peer] for peer in sorted(uploads)])
