"""FedX-Rep: FedX's cross knowledge distillation by representations of public samples, between encoders of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from fedkd import Batch, Client, Embedder, Knowledge, Needs, Node, NonNegative, Positive, Server, Settings, Strategy
from fedkd.aggregate import mean, stack
from fedkd.base.inputs import concatenate
from fedkd.experiment.algorithm.conditions import Beyond, Idle
from fedkd.losses import nt_xent_loss, relational_loss
from fedkd.losses.rows import unit_rows
from fedkd.methods.contrastive import Base, Views, make_base
from fedkd.methods.encoders.anchor_messages import PublicSize, Schema, anchor_schema, check_unit_rows, pack
from fedkd.methods.encoders.anchors import ANCHORS, Anchors, embed_public, project
from fedkd.methods.encoders.own_encoders import own_encoder, own_net, train_own
from fedkd.methods.encoders.similarity import compares_encoders, report_client_cka
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class FedXRep(Strategy):
    """Clients keep encoders of their own, any mix of nets, and meet in what they make of public samples.

    Paper: none. Ours, after Han et al., "FedX", ECCV 2022, arXiv 2207.09158, which sends weights: do not report it as
    FedX.
    What travels: 4 * 256 P bytes for each client and round, up and (from round 2 on) down: of P public samples unit
    projections up, the anchors down, their mean over clients as unit rows again. No sample ids, no weights.
    On own samples a client descends FedX's two local terms, on views of public ones NT-Xent(p1, own anchor) and Rel(p1,
    p2; other anchors), anchors frozen. Found on digits (mean probe of 5 cnns, 3 seeds): alone 0.79, so 0.81, 0.80 if
    the prediction head's output is exchanged; at a weight of 0.3, not FedX's 1, 0.82. Rotating or centring rows before
    their mean did no better (2 seeds). Public samples trained on like own ones, with no exchange, gave 0.84.
    """

    public_samples: PublicSize = 1000  # P, the same ones in all rounds; 0 = all, fewer where there are fewer
    temperature: Positive = 0.1  # of NT-Xent, of all relations and their targets, and of the base if it has one
    global_contrastive_weight: NonNegative = 0.3  # of the contrast with what the others make of public samples
    global_relational_weight: NonNegative = 0.3  # of the relations that the others see; both 0: clients train alone
    base: str = "simclr"  # what gives the local contrastive term: a name in fedkd.methods.contrastive.BASES
    base_options: dict[str, Any] = field(default_factory=dict)  # the base's own fields: {queue = 1024}

    paper: ClassVar[str] = "none (ours), after Han et al., ECCV 2022, arXiv 2207.09158"
    sends: ClassVar[str] = "embeddings of public samples, both ways"
    needs: ClassVar[Needs] = Needs(public=True, uses=("views", "compared", "probe_epochs"))
    idle: ClassVar[Idle] = {"public_samples": (Beyond("public_samples"),)}

    def check(self, experiment: Settings) -> None:
        """Also what the base asks for."""
        self.needs.check(type(self).__name__, experiment)
        self.build_base().check(experiment)

    def build_base(self) -> Base[Any]:
        """What gives the local contrastive term."""
        return make_base(self.base, self.base_options, temperature=self.temperature)

    def first_broadcast(self, server: Server) -> Knowledge:
        """No anchors yet. Nets that do not fit together, and clients that cannot take part, are named here."""
        self.build_base().check_clients(server)
        self.upload_schema(server, 0)
        return Knowledge()

    def upload_schema(self, server: Server, client: int) -> Schema:
        """A row for each public sample."""
        return anchor_schema(server, self.public_samples, heads=self.build_base().heads)

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """Rows of length 1."""
        check_unit_rows(upload)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs on the client's own net, then its embeddings of the public samples."""
        base, subset = self.build_base(), client.public_subset(self.public_samples, round=0)
        net, weights = (
            own_net(client, base, "prediction"),
            (self.global_contrastive_weight, self.global_relational_weight),
        )
        anchors = Anchors.received(broadcast, subset, net) if any(weights) else None
        others, public, compared = (
            client.train.stream("anchors"),
            subset.stream("public"),
            subset.stream("public anchors"),
        )
        related = partial(relational_loss, temperature=self.temperature, target_temperature=self.temperature)

        def objective(net: Net, batch: Batch, state: Any) -> dict[str, Tensor]:
            shown = next(public) if anchors else None
            inputs = [
                batch.view(1),
                batch.view(2),
                next(others).view(1),
                *(shown.view(number) for number in (1, 2) if shown),
            ]
            z1, z2, zr, *projected = project(net, inputs)  # (B, 256) each
            views = Views(concatenate(inputs[:2]), torch.cat([z1, z2]), batch.ids)
            terms = {**base.loss(state, net, views), "local_relational": related(z1, z2, zr)}
            if anchors and shown:
                p1, p2 = (net.head("prediction", z) for z in projected)
                contrast = nt_xent_loss(p1, anchors.rows(shown.ids), temperature=self.temperature)
                relation = related(p1, p2, anchors.rows(next(compared).ids))
                terms |= {"global_contrastive": weights[0] * contrast, "global_relational": weights[1] * relation}
            return terms

        losses = train_own(client, base, "prediction", objective=objective)
        return pack(embed_public(net, subset), weight=client.samples, metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean of the clients' unit rows, as unit rows again. How alike these were is reported."""
        return pack(mean_rows(server, uploads))

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Embedder]:
        """A client's own encoder, its features h before all heads; the server has none."""
        return own_encoder(node, self.build_base(), "prediction")


def mean_rows(server: Server, uploads: Mapping[int, Knowledge]) -> Tensor:
    """The mean over clients of their unit rows, as unit rows again; every client counts the same. (P, D)

    In rounds that are evaluated ``client_cka`` is reported: how alike the clients' embeddings of public samples are.
    """
    rows = unit_rows(stack(uploads, ANCHORS))  # (K, P, D)
    if compares_encoders(server):
        report_client_cka(server, list(rows))
    return unit_rows(mean(rows))
