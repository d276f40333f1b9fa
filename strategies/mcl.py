"""MCL: peers contrast their embeddings of every mini-batch with their own and with each other's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, final

from pydantic import Field
from torch import Tensor, nn

from fedkd import Batch, Client, Knowledge, Needs, NonNegative, Positive, Server, TensorSpec
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import icl_loss, kd_loss, soft_icl_loss, soft_similarity_loss, supcon_loss
from fedkd.losses.rows import unit_rows
from fedkd.methods.peers.all_outputs import AllOutputs, PeerOutputs
from fedkd.methods.peers.family import LockstepStrategy
from fedkd.methods.peers.lockstep import Peer, gather, outputs_schema
from fedkd.methods.peers.turns import UpdateName
from fedkd.targets import mean_logits


@final
@dataclass(frozen=True)
class MCL(LockstepStrategy):
    """K peers, of any architectures, take the same batches; each has an embedding head, whose output all receive.

    Paper: Yang et al., "Mutual Contrastive Learning for Visual Representation Learning", AAAI 2022, arXiv 2104.12565.
    What travels: embeddings, 4 B E bytes up and K times that down for each batch and peer (with logits E + C); a hash
    of it.
        loss_k = CE(z_k, y) + a VCL(v_k)
               + sum over j != k of [ b ICL(v_k, v_j) + g SoftVCL(v_k, v_j) + l SoftICL(v_k, v_j) ]
    VCL: samples of one label attract each other (SupCon). ICL: the same between two nets' embeddings, in both
    directions. Soft: similarities within one net's batch imitate those within another's; those of one direction between
    nets, the other's. v_j is constant, and the gradient of each net is still exactly that of all in one process:
    whatever of the sum over pairs depends on v_k is computed at k. So ICL and SoftICL of a pair are in the losses of
    both.
    Defaults, the official code's for CIFAR: E = 128, tau = 0.1 (0.07 for ImageNet), T = 3, a = b = 0.1, g = l = 1;
    ``weight`` multiplies all but CE and VCL.
    ``logit_weight``: T^2 KL to the constant mean of all logits, own too; with two peers for both, with more for the
    last only, as in that code, whose option has the weight 1. Alone a peer learns CE + a VCL. Heads are not evaluated.
    Nets start different; nets, heads, optimisers stay. Who fails leaves until the next round.
    Deviations: batches are shuffled, those of the code hold two images a class: here an anchor without a positive
    counts for nothing, and batches must be large beside the number of classes. More than two of its nets share their
    first stage.
    """

    temperature: Positive = 0.1  # tau, of cosines
    soft_temperature: Positive = 3.0  # T, of similarities that imitate, and of logits
    vcl_weight: NonNegative = 0.1  # a, of the contrast within a peer's own embeddings
    icl_weight: NonNegative = 0.1  # b, of the contrast with the other peers' embeddings
    soft_vcl_weight: NonNegative = 1.0  # g, of imitating the others' similarities within a peer
    soft_icl_weight: NonNegative = 1.0  # l, of imitating the others' similarities between peers
    logit_weight: NonNegative = 0.0  # of imitating the others' predictions; 0 = logits do not travel
    weight: NonNegative = 1.0  # of all of these beside the cross-entropy
    embedding: Annotated[int, Field(ge=1)] = 128  # E, the width of an embedding

    paper: ClassVar[str] = "Yang et al., AAAI 2022, arXiv 2104.12565"
    sends: ClassVar[str] = "embeddings of every mini-batch, both ways; logits, if asked for"
    needs: ClassVar[Needs] = Needs(labels=True, shared_data=True)
    update: ClassVar[UpdateName] = "simultaneous"
    idle: ClassVar[Idle] = {
        "soft_temperature": (Unless(soft_vcl_weight=0, soft_icl_weight=0, logit_weight=0), Unless(weight=0)),
    }

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Embeddings of this exchange's batch, and logits."""
        logits = {"logits": (server.classes,)} if self.logit_weight else {}
        return outputs_schema(server, client, {"embedding": (self.embedding,), **logits}, self.update)

    def peer(self, client: Client) -> Peer:
        """A net with an embedding head."""
        net = client.net(init="own", keep=True)
        build = partial(EmbeddingHead, net.feature_width, self.embedding)
        head = client.module("head", build, init="own", keep=True)
        clients = client.experiment.data.clients
        takes_logits = self.logit_weight > 0 and (clients == 2 or client.id == clients - 1)

        def forward(batch: Batch) -> PeerOutputs:
            features = net.features(batch.inputs)  # (B, D)
            return {"embedding": head(features), "logits": net.head("classifier", features)}  # (B, E), (B, C)

        def loss(own: PeerOutputs, peers: AllOutputs, batch: Batch) -> dict[str, Tensor]:
            mine, logits, labels = own["embedding"], own["logits"], batch.labels  # (B, E), (B, C), (B,)
            pairs = pair_losses(mine, peers.others("embedding"), labels, self.temperature, self.soft_temperature)
            if takes_logits:
                target = mean_logits(peers.with_mine("logits", logits)).logits()  # (B, C)
                pairs["logit"] = kd_loss(logits, target, temperature=self.soft_temperature)
            vcl = self.vcl_weight * supcon_loss(mine, labels, temperature=self.temperature)
            weighted = {name: self.weight * getattr(self, f"{name}_weight") * pair for name, pair in pairs.items()}
            return {"cross_entropy": batch.cross_entropy(logits), "vcl": vcl, **weighted}

        trained, withheld = nn.ModuleDict({"net": net, "head": head}), () if self.logit_weight else ("logits",)
        return Peer(trained, forward, loss, self.weight, withheld)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """Stack embeddings and logits by peer."""
        return gather(server, uploads, self.update)


def pair_losses(
    mine: Tensor, others: Tensor, labels: Tensor, temperature: float, soft_temperature: float
) -> dict[str, Tensor]:
    """Sums over the other peers j of what depends on my embeddings v: ICL(v, v_j), SoftVCL(v, v_j), SoftICL(v, v_j).

    Each is the part of MCL's sum over all pairs that v has a share in: with others as constants, its gradient in v is
    that of the sum with all embeddings live. SoftVCL(v_j, v), where v teaches, has none.

    Args:
        mine: (B, E), v.
        others: (K - 1, B, E), v_j of the same samples.
        labels: (B,) class ids.
        temperature: tau > 0, divides cosines.
        soft_temperature: T > 0, divides similarities that imitate each other.

    Returns:
        "icl", "soft_vcl" and "soft_icl", () each, at least 0; 0 where there is no other.

    >>> import torch
    >>> same = torch.eye(2)[[0, 0, 1]]  # nothing left to imitate
    >>> losses = pair_losses(same, same[None], torch.tensor([0, 0, 1]), temperature=1.0, soft_temperature=1.0)
    >>> {name: round(loss.item(), 4) for name, loss in losses.items()}  # 2 (log(e + 1) - 1)
    {'icl': 0.6265, 'soft_vcl': 0.0, 'soft_icl': 0.0}
    """
    none = mine.sum() * 0
    soft_vcl = partial(soft_similarity_loss, mine, temperature=soft_temperature, similarity_temperature=temperature)
    soft_icl = partial(soft_icl_loss, mine, temperature=soft_temperature, similarity_temperature=temperature)
    return {
        "icl": sum((icl_loss(mine, other, labels, temperature=temperature) for other in others), none),
        "soft_vcl": sum(map(soft_vcl, others), none),
        "soft_icl": sum(map(soft_icl, others), none),
    }


@final
class EmbeddingHead(nn.Module):
    """A point on the unit sphere for features: two linear layers with a ReLU between, then rows of length 1.

    Args:
        features: D.
        width: E, of the embedding and of the hidden layer.

    >>> import torch
    >>> rows = EmbeddingHead(64, 128)(torch.ones(5, 64))
    >>> rows.shape, round(rows[0].norm().item(), 4)
    (torch.Size([5, 128]), 1.0)
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, E), rows of length 1."""
        return unit_rows(self.layers(features))
