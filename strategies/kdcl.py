"""KDCL: peers learn from one target, made of all their logits, each from its own view of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, final

from pydantic import Field
from torch import Tensor

from fedkd import Batch, Classifier, Client, Experiment, Knowledge, Needs, Node, Positive, Server, Strategy, TensorSpec
from fedkd.losses import cross_entropy_loss, kd_loss
from fedkd.methods.held_out import held_out, held_out_schema, shares
from fedkd.methods.lockstep import Heard, Peer, Said, check_said, gather, said_schema, take_turn
from fedkd.methods.ramp import ramped
from fedkd.methods.turns import exchanges
from fedkd.targets import Evidence, rule_named

#: The paper's names of targets -> those of fedkd.targets; "mean" is that of a well-known reproduction.
TARGETS = {"naive": "lowest_loss", "linear": "linear", "min_logit": "min_logit", "general": "weighted", "mean": "mean_logits"}


@final
@dataclass(frozen=True)
class KDCL(Strategy):
    """K peers, of any architectures, take the same samples; the logits of all become one target, which all are drawn to.

    Paper: Guo et al., "Online Knowledge Distillation via Collaborative Learning", CVPR 2020; no official code, formulas as
    usually stated.
    What travels: logits, 4 B C bytes up and 4 K B C bytes down for each batch and peer, and a hash of the batch; for "general"
    4 V C bytes of logits on the V validation samples up in a round's first exchange, and 4 K bytes of shares down in each.
        loss_k = CE(z_k, y) + weight T^2 KL(softmax(t / T) || softmax(z_k / T)),   t a constant, for each sample
    "naive": t is the logits of the peer with the least cross-entropy; "linear": the convex combination with the least;
    "min_logit": the least logit of each class, all relative to the label's; "general": the mixture of probabilities of least
    expected squared error on the validation set, by the covariance of the peers' errors before this round; "mean": mean logits.
    Each peer sees a view of its own of the same images (``data.views``), or with ``own_views = false`` the images themselves.
    Peers start from different weights; nets and optimisers stay over rounds. Who fails leaves until the next round and takes
    its share along. With one peer, or weight 0, this is cross-entropy.
    Deviations: "linear" is solved to its end, where a few gradient steps were taken; "general" adds a ridge, and cuts shares
    off at 0 (fedkd.targets). ``ramp`` is ours.
    """

    target: Literal["naive", "linear", "min_logit", "general", "mean"] = "min_logit"
    temperature: Positive = 2.0
    weight: Annotated[float, Field(ge=0)] = 1.0
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.0  # the weight grows over this share of the rounds
    own_views: bool = True

    paper: ClassVar[str] = "Guo et al., CVPR 2020"
    sends: ClassVar[str] = "logits of every mini-batch, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, shared_data=True, uses=("views", "validation"))
    outlives_its_round: ClassVar[bool] = False
    compares_clients: ClassVar[bool] = True

    def check(self, experiment: Experiment) -> None:
        """The general target needs a validation set."""
        replace(self.needs, validation=self.target == "general").check("KDCL", experiment)

    def exchanges_per_round(self, experiment: Experiment) -> int:
        """One a batch, and one."""
        return exchanges(experiment)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Logits of this exchange's batch, and in the first exchange those of the validation set, where it is used."""
        schema = said_schema(server, client, {"logits": (server.classes,)})
        return schema | held_out_schema(server) if self.target == "general" else schema

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """The batch must be everybody's."""
        check_said(server, upload)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Learn from one batch, speak of the next."""
        net, weight = client.net(init="own", keep=True), self.weight * ramped(client, self.ramp)

        def say(batch: Batch) -> Said:
            return {"logits": net(batch.view(client.id) if self.own_views else batch.images)}  # (B, C)

        def loss(said: Said, heard: Heard, batch: Batch) -> dict[str, Tensor]:
            mine, everybodys = said["logits"], heard.tensors["logits"]  # (B, C), (K, B, C)
            evidence = Evidence(everybodys, self.temperature, batch.labels, weights=heard.beside.get("shares"))
            target = rule_named(TARGETS[self.target]).function(evidence).logits(self.temperature)  # (B, C)
            alone = 0.0 if len(everybodys) == 1 else 1.0
            distillation = alone * weight * kd_loss(mine, target, temperature=self.temperature)
            return {"cross_entropy": cross_entropy_loss(mine, batch.labels), "distillation": distillation}

        known = held_out(client, net) if self.target == "general" else Knowledge()
        return take_turn(client, broadcast, Peer(net, say, loss, weight)).with_tensors("logits", known.tensors)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """Stack the logits by peer; in the first exchange find the peers' shares."""
        return gather(server, uploads, beside={"shares": shares(server, uploads)} if self.target == "general" else {})

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A peer's own net; the server has none."""
        return {"main": Classifier(node.net(init="own", keep=True).eval())} if isinstance(node, Client) else {}
