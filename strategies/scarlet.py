"""SCARLET: DS-FL whose labels of public samples are used again for some rounds: few are asked for, and few are sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import (
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    Positive,
    Server,
    Settings,
    Strategy,
    TensorSpec,
    classifier,
)
from fedkd.aggregate import power
from fedkd.experiment.algorithm.conditions import Beyond, Idle
from fedkd.knowledge import codecs
from fedkd.losses import soft_cross_entropy
from fedkd.methods.kept_table import KeptTable
from fedkd.methods.public_distillation import distil, predict_public, stacked_probabilities, train_on_labels

#: In a node's memory: the table of labels, each with the round in which it was made.
LABELS = "labels"
#: In the server's memory, and in a broadcast's header: the round whose samples it says are asked for, or not.
ASKED_IN = "asked_in"


@final
@dataclass(frozen=True)
class SCARLET(Strategy):
    """Train on own samples, predict those public ones whose label is unknown or too old; learn from all labels.

    Paper: Azuma et al., "Soft-Label Caching and Sharpening for Communication-Efficient Federated Distillation", IEEE
    TMC 2026, arXiv 2504.19602.
    What travels: of the round's P public samples A are asked for, those without a label and those whose label was made
    over ``duration`` rounds ago. For each client and round 4 C A + 4 (P - A) bytes go up, its predictions and of which
    round the labels are that it has of the others; M (4 C + 8) down for the M labels that it lacks, with their places
    and rounds, and P that say which are asked for, but none in round 1. Always A <= M <= P; C classes.
    A label is the mean of the clients' predictions, sharpened to p^exponent over its sum. It is made once, and server
    and clients learn from it whenever its sample is drawn. A client that missed rounds is sent what it lacks with the
    labels of the first round in which it takes part again, as is one that lost its memory: the server keeps no record
    of what clients have, they say it. Nobody knows which samples are asked for after a round in which no client was
    left at its end: all are. With a duration of 0 it is DS-FL sharpened by "power". The official duration of 50 is one
    for many hundreds of rounds: in a short run all would learn to its end what untrained nets said in the first rounds.
    Where codecs of the downlink lose something of labels, the server's net learns from what clients read of them.
    Under [privacy] no client says what it has, and all labels are sent to all; epsilon grows only in rounds in which
    something is asked for.
    Deviations: the official code is off by one: a label of just that age is asked for, and yet not sent, so that
    clients learn from the old and the server from the new one; after that a label is sent that nobody keeps. There a
    client that missed a round fails; its catch-up is in an older version, where the server keeps a copy of each
    client's labels. There one message a round says labels, and which samples are asked for next, so that distillation
    comes first; here a round has two exchanges as in DS-FL, and it comes last. The loss is soft cross-entropy, which
    differs from its KL divergence by a constant. Batch size and optimiser are those of [train] in both phases; the two
    optimisers are kept over the rounds.
    """

    public_per_round: Annotated[int, Field(ge=0)] = 1000  # samples; 0 = all, fewer where there are fewer
    duration: Annotated[int, Field(ge=0)] = 3  # D, rounds after its own in which a label is used again; official: 50
    exponent: Positive = 2.0  # beta; higher is sharper
    distillation_epochs: Annotated[int, Field(ge=0)] = 0  # 0 = train.epochs, as in the official code

    paper: ClassVar[str] = "Azuma et al., IEEE TMC 2026, arXiv 2504.19602"
    sends: ClassVar[str] = "probabilities of public samples without a fresh label up, labels that a client lacks down"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, server_net=True)
    outlives_its_round: ClassVar[bool] = False
    idle: ClassVar[Idle] = {"public_per_round": (Beyond("public_per_round"),)}

    def exchanges_per_round(self, experiment: Settings) -> int:
        """One to upload predictions, one to learn."""
        return 2

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Probabilities of what is asked for, of which rounds the other labels are; nothing in the second exchange."""
        if server.exchange:
            return {}
        asked = self._asked_by(server)
        probabilities = TensorSpec((int(asked.sum()), server.classes), torch.float32, "probabilities")
        return {"probabilities": probabilities, "held": TensorSpec((int((~asked).sum()),), torch.int32, "counts")}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs, then predictions of what is asked for; in the second exchange, epochs towards all labels."""
        net, data = client.net(init="own", keep=True), client.train.labelled()
        subset, table = client.public_subset(self.public_per_round), KeptTable(client.memory, LABELS)
        ids = subset.samples.indices  # (P,)
        if client.exchange == 0:
            losses = train_on_labels(net, data, optimizer=client.optimizer("private", net))
            asked = torch.ones(len(ids), dtype=torch.bool)
            if broadcast.header.get(ASKED_IN) == client.round:
                asked = broadcast.tensors["asked"].bool()
            unlabelled = client.split(subset.samples.subset(asked.nonzero().squeeze(1)))
            said = predict_public(net, unlabelled).reshape(-1, client.classes).softmax(1)  # (A, C)
            upload = Knowledge.of("probabilities", {"probabilities": said}, weight=len(data), metrics=losses)
            return upload.with_tensors("counts", {"held": (1 + rounds_of(table, ids[~asked])).int()})
        new = ids[broadcast.tensors["places"].long()]
        if len(new):
            table.put(new, labels=broadcast.tensors["labels"], round=broadcast.tensors["rounds"])
        return Knowledge(weight=len(data), metrics={"distillation": self._distil(client, labels_of(table, ids))})

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge | Mapping[int, Knowledge]:
        """New labels of what was asked for; the server's net learns from all, and each client is sent those it lacks.

        In the second exchange, which samples of the next round are asked for.
        """
        table = KeptTable(server.memory, LABELS)
        if server.exchange:
            server.memory[ASKED_IN] = server.round + 1
            asked = self._asked_by(server, ahead=1).to(torch.uint8)
            return Knowledge.of("counts", {"asked": asked}, header={ASKED_IN: server.round + 1})
        asked, subset = self._asked_by(server), server.public_subset(self.public_per_round)
        ids = subset.samples.indices
        if bool(asked.any()):
            tables = stacked_probabilities(uploads)  # (K, A, C)
            labels = power(tables.mean(0), exponent=self.exponent)
            made = torch.full((len(labels),), server.round, dtype=torch.int32)
            table.put(ids[asked], labels=self._as_read(server, labels), said=labels, round=made)
            said = dict(zip(sorted(uploads), tables.log().clamp_min(-100.0), strict=True))
            new = server.split(subset.samples.subset(asked.nonzero().squeeze(1)))
            server.show_teaching(said, labels.log().clamp_min(-100.0), new)
        rounds = rounds_of(table, ids)
        loss = self._distil(server, labels_of(table, ids))
        server.report({"distillation": loss, "asked": float(asked.float().mean())})
        answers: dict[int, Knowledge] = {}
        for client, upload in uploads.items():
            lacks = asked.clone()
            lacks[~asked] = upload.tensors["held"] != 1 + rounds[~asked]
            places = lacks.nonzero().squeeze(1)
            sent = Knowledge.of("probabilities", {"labels": labels_of(table, ids[places], "said")})
            answers[client] = sent.with_tensors("counts", {"places": places.int(), "rounds": rounds[places]})
        return answers

    def _as_read(self, server: Server, labels: Tensor) -> Tensor:
        """Labels as clients read them, where the codecs of the downlink lose something."""
        down = codecs.chain(self.downlink(server.experiment), "downlink")
        return codecs.as_decoded(down, Knowledge.of("probabilities", {"labels": labels})).tensors["labels"]

    def _asked_by(self, server: Server, *, ahead: int = 0) -> Tensor:
        """Which public samples of this round, or of one ahead, are asked for: the same all round long. (P,) bool"""
        round = server.round + ahead
        ids = server.public_subset(self.public_per_round, round=round).samples.indices
        if server.memory.get(ASKED_IN) != round:
            return torch.ones(len(ids), dtype=torch.bool)
        made = rounds_of(KeptTable(server.memory, LABELS), ids)  # (P,)
        return (made == 0) | (made == round) | (round - made > self.duration)

    def _distil(self, node: Node, labels: Tensor) -> float:
        net, subset = node.net(init="own", keep=True), node.public_subset(self.public_per_round)
        optimizer = node.optimizer("distillation", net)
        losses = distil(net, subset, labels, soft_cross_entropy, optimizer=optimizer, epochs=self.distillation_epochs)
        return losses["distillation"]

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The server's net, and each client's own."""
        name = "server" if isinstance(node, Server) else "main"
        return {name: classifier(node.net(init="own", keep=True))}


def rounds_of(table: KeptTable, ids: Tensor) -> Tensor:
    """In which round the label of each of these samples was made; 0 where there is none. (B,) int32 of (B,)"""
    places, known = table.find(ids)
    return table.column("round")[places] * known if len(table) else torch.zeros(len(ids), dtype=torch.int32)


def labels_of(table: KeptTable, ids: Tensor, column: str = "labels") -> Tensor:
    """The labels (B, C) of these samples (B,), all of which must have one; at the server also as they were "said"."""
    places, known = table.find(ids)
    if not bool(known.all()):
        raise ValueError(f"there is no label of public sample {int(ids[~known][0])}")
    return table.column(column)[places]
