"""Encoder distillation: a large self-supervised encoder at the server teaches small ones at the clients how images relate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from fedkd import Batch, Client, Embedder, Experiment, Knowledge, Needs, Node, Positive, Server, Strategy
from fedkd.methods.anchor_messages import PublicSize, Schema, anchor_schema, said
from fedkd.methods.anchor_relations import RELATIONS, Lesson
from fedkd.methods.anchors import Anchors, embed_public, project
from fedkd.methods.contrastive import Base, Views, make_base
from fedkd.methods.own_encoders import Epochs, own_encoder, own_net, train_at_server, train_own
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class EncoderDistillation(Strategy):
    """The server trains an encoder on public images without labels; clients train theirs on own images and on its relations.

    Paper: Abbasi Koohpayegani et al., "CompRess: Self-Supervised Learning by Compressing Representations", NeurIPS 2020,
    arXiv 2010.14713; Fang et al., "SEED: Self-Supervised Distillation for Visual Representation", ICLR 2021, arXiv 2101.04731;
    Tejankar et al., "ISD: Self-Supervised Learning by Iterative Similarity Distillation", ICCV 2021, arXiv 2012.09259.
    What travels: 4 * 256 P bytes down, the server encoder's embeddings of P public samples; nothing up, not even weights.
    The papers' is the loss that ``relation`` names, at their temperatures: SEED's, CompRess' with a queue of the teacher's and
    one of the student's ("2q") or the teacher's alone ("1q"), ISD's on a prediction head's output. The federation is ours.
    Deviations: the broadcast is the queue, so there is no first in, first out: the anchors of a batch are all P samples outside
    it. The teacher sees an image as it is, the student a random view of it. It is no average of the student, as in ISD, and no
    finished net: it trains on, so round 1 has no teacher. Heads have no BatchNorm. A client's loss is its own base's beside.
    The optimisers are new each round.
    ``accuracy`` is the mean over clients of a linear probe of their encoders on the global test set; the teacher's is not told.
    """

    relation: Literal["seed", "compress_2q", "compress_1q", "isd"] = "compress_2q"  # a name in fedkd.methods.anchor_relations
    relation_weight: Positive = 0.1  # beside the base's loss; at 1 CompRess and ISD, whose temperatures are low, drown it
    public_samples: PublicSize = 1000  # P, the same ones in all rounds; 0 = all, fewer where there are fewer
    teacher_epochs: Epochs = 0  # of SimCLR at the server, each round, on all public images; 0 = train.epochs
    temperature: Positive = 0.1  # of the teacher's NT-Xent, and of the base if it has one
    base: str = "simclr"  # what clients descend on their own images: a name in fedkd.methods.contrastive.BASES
    base_options: dict[str, Any] = field(default_factory=dict)  # the base's own fields: {queue = 1024}

    paper: ClassVar[str] = "Abbasi Koohpayegani et al., NeurIPS 2020; Fang et al., ICLR 2021; Tejankar et al., ICCV 2021"
    sends: ClassVar[str] = "embeddings of public samples, down only"
    needs: ClassVar[Needs] = Needs(public=True, server_net=True, uses=("views",))

    def check(self, experiment: Experiment) -> None:
        """Also what the base asks for."""
        self.needs.check(type(self).__name__, experiment)
        self.made_base().check(experiment)

    def made_base(self) -> Base[Any]:
        """What clients descend on their own images."""
        return make_base(self.base, self.base_options, temperature=self.temperature)

    def first_broadcast(self, server: Server) -> Knowledge:
        """No teacher yet. Nets that do not fit together, and clients that cannot take part, are named here."""
        self.made_base().check_clients(server)
        anchor_schema(server, self.public_samples, server.architecture, heads=self.made_base().heads)
        return Knowledge()

    def upload_schema(self, server: Server, client: int) -> Schema:
        """No tensors."""
        return {}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of the base on the client's own net and images; each step also takes a batch of public ones."""
        base, subset, relation = self.made_base(), client.public_subset(self.public_samples, round=0), RELATIONS[self.relation]
        net = own_net(client, base, *relation.heads)
        taught = Anchors.heard(broadcast, subset, net, *relation.heads)
        lesson = Lesson(relation, net, subset, taught) if taught else None

        def objective(net: Net, batch: Batch, state: Any) -> dict[str, Tensor]:
            public = lesson.next() if lesson else None
            images = [batch.view(1), batch.view(2), *([public.view(1)] if public else [])]
            z1, z2, *seen = project(net, images)  # (B, 256) each
            terms = dict(base.loss(state, net, Views(torch.cat(images[:2]), torch.cat([z1, z2]), batch.ids)))
            if lesson and public:
                terms["relation"] = self.relation_weight * lesson.loss(net, seen[0], public.ids)
            return terms

        return Knowledge(weight=client.samples, metrics=train_own(client, base, *relation.heads, objective=objective))

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """Training on the public images, whatever the clients descend; then the teacher's embeddings of P of them."""
        net = train_at_server(server, temperature=self.temperature, epochs=self.teacher_epochs)
        return said(embed_public(net, server.public_subset(self.public_samples, round=0)))

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Embedder]:
        """A client's own encoder, its features h before all heads; none at the server, as ``accuracy`` would be its."""
        return own_encoder(node, self.made_base(), *RELATIONS[self.relation].heads)
