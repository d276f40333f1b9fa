"""FLESD: how alike the clients' encoders find public samples, taken together, teaches an encoder at the server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import (
    Batch,
    Client,
    Embedder,
    InputError,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Positive,
    Server,
    Settings,
    Share,
    Strategy,
    TensorSpec,
    fit,
)
from fedkd.aggregate import mean
from fedkd.experiment.algorithm.conditions import Beyond, Idle, When
from fedkd.experiment.algorithm.optimizer_state import trainable
from fedkd.losses import soft_cross_entropy
from fedkd.losses.rows import unit_rows
from fedkd.methods.contrastive import WITH_TEMPERATURE, Base, make_base
from fedkd.methods.contrastive.moco import Queue
from fedkd.methods.encoders.anchor_messages import PublicSize, Schema, check_unit_rows, pack
from fedkd.methods.encoders.anchors import ANCHORS, embed_public, project, width_of
from fedkd.methods.encoders.own_encoders import own_encoder, own_net, train_own
from fedkd.methods.encoders.similarity import compares_encoders, report_client_cka
from fedkd.nets import Net, load, move_towards

Count = Annotated[int, Field(ge=1)]


@final
@dataclass(frozen=True)
class FLESD(Strategy):
    """Clients train encoders without labels; a student at the server learns the mean of how they relate public samples.

    Paper: Shi et al., "Towards Communication-Efficient and Privacy-Preserving Federated Representation Learning", arXiv
    2109.14611.
    What travels: 4 * 256 P bytes up for each client and round, of P public samples unit projections; down |θ| elements,
    the student's encoder and heads, to each client whose net is the server's, and nothing to the others, whose nets of
    any kind go on from where they were.
    With R_k a client's rows, each round:
        S = mean over k of exp((R_k R_k^T - the largest of its row) / target_temperature)       (P, P)
        the student descends, for views of a sample b, the cross-entropy of
            softmax over j in the queue of (q_b . key_j / student_temperature)   with   S_bj / sum over j of S_bj
    q is of the student, keys of a slowly moving copy of it, made anew each round; the newest ``queue`` of them count,
    those of the batch itself too. With ``kept`` below 1 only the largest cosines of a row stay, the others are 0.
    Deviations from the official code: the queue begins with keys of the public samples, without views, and holds no
    more than there are; there it begins with random ones, and at the start of every epoch no step is taken on as many
    batches as fill it. The two temperatures are two; there the target's is read from the student's. Clients' contrast
    is NT-Xent over both views, not one-sided, or what ``base`` names. Steps and momentum are for small public sets
    (there 200 epochs of 50,000, momentum 0.999). The paper sends matrices, 4 P^2 bytes, from which the rows follow but
    for a rotation.
    """

    public_samples: PublicSize = 1000  # P, the same ones in all rounds; 0 = all, fewer where there are fewer
    target_temperature: Positive = 0.1  # of the clients' similarities
    student_temperature: Positive = 0.1  # of the student's
    kept: Annotated[float, Field(gt=0, le=1)] = 1.0  # share of a row's similarities that count
    queue: Count = 2048  # keys
    momentum: Share = 0.99  # of the net that makes the keys
    student_epochs: Count = 20  # each round, on the public samples
    student_batch_size: Annotated[int, Field(ge=2)] = 256  # public samples a step
    student_lr: Positive = 1e-3  # of Adam
    student_weight_decay: NonNegative = 1e-6  # of Adam
    temperature: Positive = 0.4  # of the clients' contrast, if the base has one
    base: str = "simclr"  # what clients descend: a name in fedkd.methods.contrastive.BASES
    base_options: dict[str, Any] = field(default_factory=dict)  # the base's own fields: {queue = 1024}

    paper: ClassVar[str] = "Shi et al. 2021, arXiv 2109.14611"
    sends: ClassVar[str] = "embeddings of public samples up, the student's weights down"
    needs: ClassVar[Needs] = Needs(public=True, server_net=True, uses=("views", "representations", "compared"))
    idle: ClassVar[Idle] = {
        **{name: (Beyond(name),) for name in ("public_samples", "queue")},
        "temperature": (When("base", *WITH_TEMPERATURE),),
    }

    def check(self, experiment: Settings) -> None:
        """Also what the base asks for; a batch's own keys must be in the queue."""
        self.needs.check(type(self).__name__, experiment)
        self.build_base().check(experiment)
        if self.queue <= self.student_batch_size:
            raise InputError(
                f"strategy.queue: {self.queue} keys do not hold a batch of {self.student_batch_size} and one more: "
                "raise it, or lower strategy.student_batch_size"
            )

    def build_base(self) -> Base[Any]:
        """What clients descend."""
        return make_base(self.base, self.base_options, temperature=self.temperature)

    def _student(self, server: Server) -> Net:
        return server.net("student", heads=self.build_base().heads, keep=True)

    def first_broadcast(self, server: Server) -> Mapping[int, Knowledge]:
        """The student's initial weights, to clients of its kind. A client that cannot take part is named here."""
        self.build_base().check_clients(server)
        return self._weights(server)

    def _weights(self, server: Server) -> dict[int, Knowledge]:
        student, nothing = Knowledge.of("weights", self._student(server).state_dict()), Knowledge()
        return {k: student if server.architecture_of(k) == server.architecture else nothing for k in server.clients}

    def upload_schema(self, server: Server, client: int) -> Schema:
        """A row for each public sample, as wide as the client's projections."""
        name = server.architecture_of(client)
        net = server.net(f"width of {name}", architecture=name, heads=self.build_base().heads)
        rows = len(server.public_subset(self.public_samples, round=0))
        return {ANCHORS: TensorSpec((rows, width_of(net)), torch.float32, "embedding")}

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """Rows of length 1."""
        check_unit_rows(upload)

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of the base, from the student where one got it; then embeddings of public samples."""
        base, subset = self.build_base(), client.public_subset(self.public_samples, round=0)
        net = own_net(client, base)
        if broadcast.tensors:
            base.receive(client, net, broadcast.tensors)
        losses = train_own(client, base)
        return pack(embed_public(net, subset), weight=client.samples, metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """Some epochs of the student towards the mean of the clients' similarities."""
        rows = [uploads[client].tensors[ANCHORS] for client in sorted(uploads)]
        if not rows:
            return {}
        if compares_encoders(server):
            report_client_cka(server, rows)
        targets = ensemble_similarities(rows, temperature=self.target_temperature, kept=self.kept)
        server.report(self._distil(server, targets.to(server.device)))
        return self._weights(server)

    def _distil(self, server: Server, targets: Tensor) -> dict[str, float]:
        student, subset = self._student(server), server.public_subset(self.public_samples, round=0)
        key = server.net("key", heads=self.build_base().heads)
        load(key, student.state_dict())
        order = torch.randperm(len(subset), generator=server.rng("queue"))[: self.queue]
        keys = embed_public(key, server.split(subset.samples.subset(order)))
        queue, places = Queue(keys.to(server.device), 0), Queue(order, 0)

        def loss(net: Net, batch: Batch, key: Net, queue: Queue, places: Queue, targets: Tensor) -> dict[str, Tensor]:
            (own,) = project(net, [batch.view(1)])  # (B, D)
            with torch.no_grad():
                queue.add(unit_rows(project(key, [batch.view(2)])[0].float()))
                places.add(batch.positions)
            logits = unit_rows(own.float()) @ queue.keys.T / self.student_temperature  # (B, Q)
            return {"relation": soft_cross_entropy(logits, renormalised(targets, batch.positions, places.keys))}

        adam = torch.optim.Adam(
            trainable(student, server.work().where), lr=self.student_lr, weight_decay=self.student_weight_decay
        )
        return fit(
            *(student, subset, loss),
            given=(key.train().requires_grad_(False), queue, places, targets),
            optimizer=adam,
            epochs=self.student_epochs,
            batch_size=self.student_batch_size,
            after_step=lambda: move_towards(key, student, 1 - self.momentum),
        )

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Embedder]:
        """The student's features h before all heads; at a client those of its own encoder."""
        if not isinstance(node, Server):
            return own_encoder(node, self.build_base())
        student = self._student(node).eval()
        return {"student": Embedder(student.features, student)}


# ---- similarities


def ensemble_similarities(rows: Iterable[Tensor], *, temperature: float, kept: float = 1.0) -> Tensor:
    """The mean over clients of how alike each finds samples, sharpened; the sample itself counts 1, all others less.

    Args:
        rows: (P, D) unit rows of each client, of any width.
        temperature: > 0, divides cosines.
        kept: the share of a row's cosines that stay, beside that with the sample itself, the others are 0; 1 = all.

    Returns:
        (P, P), above 0; not normalised.

    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> (ensemble_similarities([rows], temperature=1 / torch.tensor(4.0).log().item()) * 4).round().tolist()
    [[4.0, 1.0], [1.0, 4.0]]
    """
    return mean(torch.stack([_sharpened(each, temperature, kept) for each in rows]))


def _sharpened(rows: Tensor, temperature: float, kept: float) -> Tensor:
    cosines = rows @ rows.T  # (P, P)
    if kept < 1:
        least = cosines.topk(min(len(rows), int(kept * len(rows)) + 1), dim=1).values[:, -1:]  # (P, 1)
        cosines = torch.where(cosines >= least, cosines, 0.0)
    return ((cosines - cosines.amax(1, keepdim=True)) / temperature).exp()


def renormalised(similarities: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """These rows of (P, P) at these columns, in which each row's own sample is, as distributions. (B, Q)

    >>> renormalised(torch.tensor([[1.0, 0.5], [0.25, 1.0]]), torch.tensor([1]), torch.tensor([0, 1, 1, 0])).tolist()
    [[0.10000000149011612, 0.4000000059604645, 0.4000000059604645, 0.10000000149011612]]
    """
    part = similarities[rows][:, columns]
    return part / part.sum(1, keepdim=True)
