"""D-Distillation: peers on a graph agree on soft decisions about reference samples, without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import (
    Batch,
    Classifier,
    Client,
    InputError,
    Knowledge,
    Memory,
    Needs,
    Node,
    Server,
    Settings,
    Strategy,
    Table,
    TensorSpec,
    classifier,
    fit,
)
from fedkd.aggregate import stack
from fedkd.aggregate.topology import Neighbours, graph, mixing_matrix
from fedkd.base.inputs import concatenate
from fedkd.experiment.algorithm.conditions import Beyond, Idle, Unless, When
from fedkd.knowledge import codecs
from fedkd.methods.public_distillation import predict_public, train_on_labels
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class DDistillation(Strategy):
    """Each client estimates everybody's mean soft decision, by gossip, and is drawn towards this z as it trains.

    Paper: Bistritz, Mann and Bambos, "Distributed Distillation for On-Device Learning", NeurIPS 2020; formulas as
    usually stated: cross-entropy + rho / (2 |R|) sum over x in R of ||s(x) - z(x)||^2, then z <- W z + (new s - old s),
    where s is a client's softmax on the reference samples R, a fixed part of the public set, and W the Metropolis
    weights of the graph.
    What travels: z, 4 |R| C bytes along each directed edge and round; the server only passes it on, so a client uploads
    4 |R| C bytes and is sent as much from each neighbour. ``edges`` counts these, ``edge_bytes`` is what one of them
    carried.
    A client's first z is its first s. An edge counts in a round if both its ends uploaded, so that failures and
    absences keep the mean of all z the mean of all s; a client whose neighbours are missing goes on with its own z. z
    may leave [0, 1]: it travels as an embedding, for which [privacy] has no mechanism. Lossy codecs round z where it is
    kept too, and what they took is given back a round later: else the mean of all z would wander off.
    Deviations: a step takes a batch of R for a batch of the client's samples, instead of all of R; all of z travels,
    not a random part. rho is ours; learning rates are those of [train], where the proof lets them fall. The optimiser
    is new each round.
    """

    rho: Annotated[float, Field(ge=0)] = 5.0  # weight of the consensus
    graph: Literal["ring", "torus", "random_regular", "full"] = "ring"  # who is whose neighbour
    degree: Annotated[int, Field(ge=1)] = 4  # neighbours of each client, of random_regular
    public_samples: Annotated[int, Field(ge=0)] = 0  # |R|, 0 = all

    paper: ClassVar[str] = "Bistritz et al., NeurIPS 2020"
    sends: ClassVar[str] = "soft decisions on public samples, to the neighbours on a graph"
    needs: ClassVar[Needs] = Needs(labels=True, public=True)
    outlives_its_round: ClassVar[bool] = False  # its sender has gone on, and mixing an older z would change the mean
    renamed: ClassVar[Mapping[str, str]] = {"public_size": "public_samples"}
    idle: ClassVar[Idle] = {
        "degree": (When("graph", "random_regular"),),
        "graph": (Unless(rho=0),),
        "public_samples": (Beyond("public_samples"),),
    }

    def _mixing(self, node: Node) -> tuple[tuple[tuple[int, ...], ...], Tensor]:
        return mixing(self.graph, node.experiment.data.clients, self.degree, node.experiment.seed)

    def check(self, experiment: Settings) -> None:
        """Neighbours must read of a table what its sender keeps."""
        self.needs.check(type(self).__name__, experiment)
        if svd := [name for name in experiment.downlink if name.startswith("svd")]:
            raise InputError(
                f"downlink: {svd[0]} would cut the tables of several neighbours as one: put it on the uplink only"
            )

    def first_broadcast(self, server: Server) -> Knowledge:
        """Nothing; an impossible graph is refused here."""
        self._mixing(server)
        return Knowledge()

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """The client's z."""
        shape = (len(server.public_subset(self.public_samples, round=0)), server.classes)
        return {"consensus": TensorSpec(shape, torch.float32, "embedding")}

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """Mixing keeps the sum of a row, which is 1 for a softmax, and its size."""
        z = upload.tensors["consensus"]
        if not bool(((z.sum(1) - 1).abs() <= 0.01).all()) or float(z.abs().max()) > 10:
            raise ValueError("its consensus has a row that does not sum to 1, or a value beyond 10")

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Mix one's estimate with the neighbours', train towards it, and upload what has become of it."""
        net, data = client.net(init="own", keep=True), client.train.labelled()
        reference = client.public_subset(self.public_samples, round=0)
        if met := "consensus" in client.memory:
            z = mix_received(client.memory, broadcast, "consensus", self._mixing(client)[1][client.id])  # (P, C)
            table, stream = Table(reference.samples.indices, z), reference.stream("reference")

            def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
                public = next(stream)
                logits = net(concatenate([batch.inputs, public.inputs]))  # (B + B', C)
                gap = logits[len(batch) :].float().softmax(1) - table.rows(public.ids).to(client.device)
                consensus = 0.5 * self.rho * gap.square().sum(1).mean()
                return {"cross_entropy": batch.cross_entropy(logits[: len(batch)]), "consensus": consensus}

        losses = fit(net, data, loss) if met else train_on_labels(net, data)
        s = predict_public(net, reference).softmax(1)
        z = z + s - client.memory.tensor("decisions") if met else s
        client.memory["consensus"] = received = as_received(
            z, "embedding", uplink=self.uplink(client.experiment), downlink=self.downlink(client.experiment)
        )
        client.memory["decisions"] = s + (received - z)  # what codecs took of z now is given back in the next step
        tables = list(broadcast.tensors.values())  # [(deg, P, C)] or nothing
        edges = {"edges": sum(map(len, tables)), "edge_bytes": 4 * z.numel() if tables else 0}
        return Knowledge.of("embedding", {"consensus": z}, weight=len(data), metrics={**losses, **edges})

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """No step of its own: to each client the tables of its neighbours."""
        return route(uploads, "consensus", self._mixing(server)[0], round=server.round)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}


# ---- gossip without a server
#
# An edge counts in a round if both its ends uploaded: then each receives the other's table, and symmetric weights leave
# the mean over all clients as it was, whoever failed. What a client was sent waits for it until it has uploaded again.


@lru_cache(maxsize=8)
def mixing(name: str, clients: int, degree: int, seed: int) -> tuple[Neighbours, Tensor]:
    """The neighbours of every client on a graph, and the mixing matrix W (K, K); arguments as for ``graph``."""
    neighbours = graph(name, clients, degree=degree, seed=seed)
    return neighbours, mixing_matrix(neighbours).float()


def route(uploads: Mapping[int, Knowledge], name: str, neighbours: Neighbours, *, round: int) -> dict[int, Knowledge]:
    """What each client that uploaded is sent: the tables (deg, P, C) of those of its neighbours that did too.

    Args:
        uploads: by client id, each with a table ``name`` (P, C).
        name: of the table.
        neighbours: of every client, ascending.
        round: the router's, so that nobody mixes the same tables twice.

    Returns:
        by client id; nothing for a client none of whose neighbours uploaded.
    """
    passed = {}
    for client, upload in uploads.items():
        if others := {other: uploads[other] for other in neighbours[client] if other in uploads}:
            header = {"heard_from": ",".join(map(str, others)), "heard_in": round}
            passed[client] = Knowledge.of(upload.spaces[name], {name: stack(others, name)}, header=header)
    return passed


def mix_received(memory: Memory, passed: Knowledge, name: str, weights: Tensor) -> Tensor:
    """A client's own table mixed with those of its neighbours, which count once; its own if it was sent none.

    Args:
        memory: the client's, with its table under ``name``; it keeps which round's tables were mixed.
        passed: what ``route`` gave for this client, or empty knowledge.
        name: of the table.
        weights: the client's row of the mixing matrix, (K,).
    """
    own, sent_in = memory.tensor(name), int(passed.header.get("heard_in", 0))
    if sent_in <= int(memory.get("heard_in", 0)):
        return own
    memory["heard_in"] = sent_in
    others = torch.tensor([int(client) for client in str(passed.header["heard_from"]).split(",")])
    return mix(own, passed.tensors[name], weights[others])


def as_received(table: Tensor, space: str, *, uplink: Sequence[str], downlink: Sequence[str]) -> Tensor:
    """What the neighbours will read of a table (P, C) that this client uploads: the same, but for what codecs lose.

    Who takes this for its own table keeps the mean over all clients when it is mixed, as both ends of an edge then hold
    alike what went along it. Not with "svd" on the downlink, which cuts the tables that a client is passed all at once.
    """
    up, down = codecs.chain(uplink, "uplink"), codecs.chain(downlink, "downlink")
    uploaded = codecs.as_decoded(up, Knowledge.of(space, {"table": table})).tensors["table"]
    return codecs.as_decoded(down, Knowledge.of(space, {"table": uploaded[None]})).tensors["table"][0]


def mix(own: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of one's own table and the others'; one's own weight is what theirs leave of 1.

    >>> mix(torch.zeros(1, 2), torch.tensor([[[4.0, 0.0]], [[0.0, 8.0]]]), torch.tensor([0.25, 0.5])).tolist()
    [[1.0, 4.0]]
    """
    return (1 - weights.sum()) * own + torch.einsum("n,npc->pc", weights, others)
