"""MCL: peers contrast their embeddings of every mini-batch with their own and with each other's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

from pydantic import Field
from torch import Tensor, nn

from fedkd import Classifier, Client, Experiment, Knowledge, Needs, Node, NonNegative, Positive, Server, Strategy, TensorSpec
from fedkd.experiment.algorithm.train import Batch
from fedkd.losses import cross_entropy_loss, kd_loss, supcon_loss
from fedkd.methods.lockstep import Heard, Peer, Said, check_said, gather, said_schema, take_turn
from fedkd.methods.peer_contrast import pair_losses
from fedkd.methods.peer_heads import EmbeddingHead, feature_width
from fedkd.methods.turns import exchanges
from fedkd.targets import mean_logits


@final
@dataclass(frozen=True)
class MCL(Strategy):
    """K peers, of any architectures, take the same batches; each has an embedding head, whose output all tell each other.

    Paper: Yang et al., "Mutual Contrastive Learning for Visual Representation Learning", AAAI 2022, arXiv 2104.12565.
    What travels: embeddings, 4 B E bytes up and K times that down for each batch and peer (with logits E + C); a hash of it.
        loss_k = CE(z_k, y) + a VCL(v_k) + sum over j != k of [ b ICL(v_k, v_j) + g SoftVCL(v_k, v_j) + l SoftICL(v_k, v_j) ]
    VCL: samples of one label attract each other (SupCon). ICL: the same between two nets' embeddings, in both directions. Soft:
    similarities within one net's batch imitate those within another's; those of one direction between nets, the other's.
    v_j is constant, and the gradient of each net is still exactly that of all in one process: whatever of the sum over pairs
    depends on v_k is computed at k. So ICL and SoftICL of a pair are in the losses of both. All losses are of fedkd.losses.
    Defaults, the official code's for CIFAR: E = 128, tau = 0.1 (0.07 for ImageNet), T = 3, a = b = 0.1, g = l = 1; ``weight``
    multiplies all but CE and VCL.
    ``logit_weight``: T^2 KL to the constant mean of all logits, own too; with two peers for both, with more for the last only,
    as in that code, whose option has the weight 1. Alone a peer learns CE + a VCL. Heads are not evaluated. Nets start
    different; nets, heads, optimisers stay. Who fails leaves until the next round.
    Deviations: batches are shuffled, those of the code hold two images a class: here an anchor without a positive counts for
    nothing, and batches must be large beside the number of classes. More than two of its nets share their first stage.
    """

    temperature: Positive = 0.1  # tau, of cosines
    soft_temperature: Positive = 3.0  # T, of similarities that imitate, and of logits
    vcl_weight: NonNegative = 0.1  # a
    icl_weight: NonNegative = 0.1  # b
    soft_vcl_weight: NonNegative = 1.0  # g
    soft_icl_weight: NonNegative = 1.0  # l
    logit_weight: NonNegative = 0.0
    weight: NonNegative = 1.0
    embedding: Annotated[int, Field(ge=1)] = 128  # E

    paper: ClassVar[str] = "Yang et al., AAAI 2022, arXiv 2104.12565"
    sends: ClassVar[str] = "embeddings of every mini-batch, both ways; logits, if asked for"
    needs: ClassVar[Needs] = Needs(labels=True, shared_data=True)
    outlives_its_round: ClassVar[bool] = False
    compares_clients: ClassVar[bool] = True

    def exchanges_per_round(self, experiment: Experiment) -> int:
        """One a batch, and one."""
        return exchanges(experiment)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Embeddings of this exchange's batch, and logits."""
        logits = {"logits": (server.classes,)} if self.logit_weight else {}
        return said_schema(server, client, {"embedding": (self.embedding,), **logits})

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """The batch must be everybody's."""
        check_said(server, upload)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Learn from one batch, speak of the next."""
        net = client.net(init="own", keep=True)
        head = client.module("head", lambda: EmbeddingHead(feature_width(net), self.embedding), init="own", keep=True)
        hears_logits = self.logit_weight > 0 and (client.clients == 2 or client.id == client.clients - 1)

        def say(batch: Batch) -> Said:
            features = net.features(batch.images)  # (B, D)
            return {"embedding": head(features), "logits": net.head("classifier", features)}  # (B, E), (B, C)

        def loss(said: Said, heard: Heard, batch: Batch) -> dict[str, Tensor]:
            mine, logits, labels = said["embedding"], said["logits"], batch.labels  # (B, E), (B, C), (B,)
            pairs = pair_losses(mine, heard.others("embedding"), labels, self.temperature, self.soft_temperature)
            if hears_logits:
                target = mean_logits(heard.with_mine("logits", logits)).logits()  # (B, C)
                pairs["logit"] = kd_loss(logits, target, temperature=self.soft_temperature)
            vcl = self.vcl_weight * supcon_loss(mine, labels, temperature=self.temperature)
            taught = {name: self.weight * getattr(self, f"{name}_weight") * pair for name, pair in pairs.items()}
            return {"cross_entropy": cross_entropy_loss(logits, labels), "vcl": vcl, **taught}

        trained, unsaid = nn.ModuleDict({"net": net, "head": head}), () if self.logit_weight else ("logits",)
        return take_turn(client, broadcast, Peer(trained, say, loss, self.weight, unsaid))

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """Stack what was said by peer."""
        return gather(server, uploads)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A peer's own net; the server has none."""
        return {"main": Classifier(node.net(init="own", keep=True).eval())} if isinstance(node, Client) else {}
