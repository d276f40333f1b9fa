"""Encoder distillation: a large self-supervised encoder at the server teaches the clients how samples relate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from fedkd import Batch, Client, Embedder, Knowledge, Needs, Node, Positive, Server, Settings, Split, Strategy, fit
from fedkd.base.inputs import concatenate
from fedkd.experiment.algorithm.conditions import Beyond, Idle
from fedkd.losses import compress_loss, seed_loss
from fedkd.methods.contrastive import Base, SimCLR, Views, make_base
from fedkd.methods.encoders.anchor_messages import PublicSize, Schema, anchor_schema, pack
from fedkd.methods.encoders.anchors import Anchors, embed_public, project
from fedkd.methods.encoders.global_encoder import own_objective
from fedkd.methods.encoders.own_encoders import Epochs, own_encoder, own_net, train_own
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class EncoderDistillation(Strategy):
    """The server trains an encoder on public samples, clients theirs on own samples and on its relations. No labels.

    Paper: Abbasi Koohpayegani et al., "CompRess: Self-Supervised Learning by Compressing Representations", NeurIPS
    2020, arXiv 2010.14713; Fang et al., "SEED: Self-Supervised Distillation for Visual Representation", ICLR 2021,
    arXiv 2101.04731; Tejankar et al., "ISD: Self-Supervised Learning by Iterative Similarity Distillation", ICCV 2021,
    arXiv 2012.09259.
    What travels: 4 * 256 P bytes down, the server encoder's embeddings of P public samples; nothing up, not even
    weights.
    The papers' is the loss that ``relation`` names, at their temperatures: SEED's, CompRess' with a queue of the
    teacher's and one of the student's ("2q") or the teacher's alone ("1q"), ISD's on a prediction head's output. The
    federation is ours.
    Deviations: the broadcast is the queue, so there is no first in, first out: the anchors of a batch are all P samples
    outside it. The teacher sees a sample as it is, the student a random view of it. It is no average of the student, as
    in ISD, and no finished net: it trains on, so round 1 has no teacher. Heads have no BatchNorm. A client's loss is
    its own base's beside. The optimisers are new each round.
    ``accuracy`` is the mean over clients of a linear probe of their encoders on the global test set; the teacher's is
    not reported.
    """

    relation: Literal["seed", "compress_2q", "compress_1q", "isd"] = "compress_2q"  # a name in RELATIONS
    relation_weight: Positive = 0.1  # beside the base's loss; at 1 CompRess and ISD, of low temperatures, drown it
    public_samples: PublicSize = 1000  # P, the same ones in all rounds; 0 = all, fewer where there are fewer
    teacher_epochs: Epochs = 0  # of SimCLR at the server, each round, on all public samples; 0 = train.epochs
    temperature: Positive = 0.1  # of the teacher's NT-Xent, and of the base if it has one
    base: str = "simclr"  # what clients descend on their own samples: a name in fedkd.methods.contrastive.BASES
    base_options: dict[str, Any] = field(default_factory=dict)  # the base's own fields: {queue = 1024}

    paper: ClassVar[str] = (
        "Abbasi Koohpayegani et al., NeurIPS 2020; Fang et al., ICLR 2021; Tejankar et al., ICCV 2021"
    )
    sends: ClassVar[str] = "embeddings of public samples, down only"
    needs: ClassVar[Needs] = Needs(public=True, server_net=True, uses=("views", "probe_epochs"))
    idle: ClassVar[Idle] = {"public_samples": (Beyond("public_samples"),)}

    def check(self, experiment: Settings) -> None:
        """Also what the base asks for."""
        self.needs.check(type(self).__name__, experiment)
        self.build_base().check(experiment)

    def build_base(self) -> Base[Any]:
        """What clients descend on their own samples."""
        return make_base(self.base, self.base_options, temperature=self.temperature)

    def first_broadcast(self, server: Server) -> Knowledge:
        """No teacher yet. Nets that do not fit together, and clients that cannot take part, are named here."""
        self.build_base().check_clients(server)
        anchor_schema(server, self.public_samples, server.architecture, heads=self.build_base().heads)
        return Knowledge()

    def upload_schema(self, server: Server, client: int) -> Schema:
        """No tensors."""
        return {}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of the base on the client's own net and samples; each step also takes a batch of public ones."""
        base, subset, relation = (
            self.build_base(),
            client.public_subset(self.public_samples, round=0),
            RELATIONS[self.relation],
        )
        net = own_net(client, base, *relation.heads)
        teacher = Anchors.received(broadcast, subset, net, *relation.heads)
        term = RelationTerm(relation, net, subset, teacher) if teacher else None

        def objective(net: Net, batch: Batch, state: Any) -> dict[str, Tensor]:
            public = term.next() if term else None
            views = [batch.view(1), batch.view(2), *([public.view(1)] if public else [])]
            z1, z2, *projected = project(net, views)  # (B, 256) each
            terms = dict(base.loss(state, net, Views(concatenate(views[:2]), torch.cat([z1, z2]), batch.ids)))
            if term and public:
                terms["relation"] = self.relation_weight * term.loss(net, projected[0], public.ids)
            return terms

        return Knowledge(weight=client.samples, metrics=train_own(client, base, *relation.heads, objective=objective))

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """Training on the public samples, whatever the clients descend; then the teacher's embeddings of P of them."""
        net = train_at_server(server, temperature=self.temperature, epochs=self.teacher_epochs)
        return pack(embed_public(net, server.public_subset(self.public_samples, round=0)))

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Embedder]:
        """A client's own encoder, its features h before all heads; none at the server, as ``accuracy`` would be its."""
        return own_encoder(node, self.build_base(), *RELATIONS[self.relation].heads)


# ---- how a student relates samples to each other, and how its teacher does

#: ``loss(student, teacher, queue, own)``: (B, D) of a batch twice, (Q, D) of other samples by teacher and by student.
RelationLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@final
@dataclass(frozen=True)
class Relation:
    """A way to compare relations: the loss, the heads that the student's projections pass, whether older ones count."""

    loss: RelationLoss
    heads: tuple[str, ...] = ()
    remembers: bool = False


def _seed(student: Tensor, teacher: Tensor, queue: Tensor, own: Tensor) -> Tensor:
    return seed_loss(student, teacher, queue)


def _one_queue(student: Tensor, teacher: Tensor, queue: Tensor, own: Tensor, *, temperature: float = 0.04) -> Tensor:
    return compress_loss(student, teacher, queue, temperature=temperature)


def _two_queues(student: Tensor, teacher: Tensor, queue: Tensor, own: Tensor) -> Tensor:
    return compress_loss(student, teacher, queue, student_queue=own)


#: By name: SEED; CompRess with two queues and with the teacher's alone; ISD. Each at its paper's temperatures.
RELATIONS = {
    "seed": Relation(_seed),
    "compress_2q": Relation(_two_queues, remembers=True),
    "compress_1q": Relation(_one_queue),
    "isd": Relation(partial(_one_queue, temperature=0.02), ("prediction",)),
}


@final
class RelationTerm:
    """The relational term of a local training: batches of public samples, and their embeddings by teacher and student.

    The anchors of a batch are all samples outside it, so a batch is at most half of them. The student's own embeddings
    of them, if the relation asks for these, are those of its net as the training begins, then of the batches as they
    come.
    """

    def __init__(self, relation: Relation, net: Net, subset: Split, teacher: Anchors) -> None:
        self._relation, self._teacher, self._own = relation, teacher, teacher
        if relation.remembers:
            rows = embed_public(net, subset, *relation.heads).to(subset.work.device)
            self._own = Anchors(subset.samples.indices, rows)
        self._batches = subset.stream("public", min(subset.work.settings.batch_size, max(1, len(subset) // 2)))

    def next(self) -> Batch:
        """Public samples."""
        return next(self._batches)

    def loss(self, net: Net, projected: Tensor, ids: Tensor) -> Tensor:
        """Of a random view of these public samples (B,), given its projections (B, D). Gradient: to the student."""
        student = projected
        for head in self._relation.heads:
            student = net.head(head, student)
        queue, own = self._teacher.others(ids), self._own.others(ids)
        loss = self._relation.loss(student, self._teacher.rows(ids), queue, own)
        if self._relation.remembers:
            self._own.replace(ids, student)
        return loss


def train_at_server(server: Server, *, temperature: float, epochs: int = 0) -> Net:
    """One round of SimCLR on all public samples at the server; its net is kept over the rounds, its loss reported.

    Args:
        server: whose ``server_net``; it has no samples of its own.
        temperature: of NT-Xent.
        epochs: 0 = train.epochs.
    """
    net, contrast = server.net(init="own", heads=("projection",), keep=True), own_objective(SimCLR(temperature))
    public = server.public_subset(round=0)
    server.report(fit(net, public, lambda net, batch: contrast(net, batch, None), epochs=epochs or None))
    return net
