"""D-Distillation: peers on a graph agree on soft decisions about reference samples, without a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import (
    Batch,
    Classifier,
    Client,
    Experiment,
    InputError,
    Knowledge,
    Needs,
    Node,
    Server,
    Strategy,
    Table,
    TensorSpec,
    classifier,
    fit,
)
from fedkd.losses import cross_entropy_loss
from fedkd.methods.gossip import as_heard, hear, peers, route
from fedkd.methods.public_distillation import predict_public, train_on_labels
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class DDistillation(Strategy):
    """Each client keeps an estimate z of everybody's mean soft decision, by gossip, and is drawn towards it as it trains.

    Paper: Bistritz, Mann and Bambos, "Distributed Distillation for On-Device Learning", NeurIPS 2020; formulas as usually
    stated: cross-entropy + rho / (2 |R|) sum over x in R of ||s(x) - z(x)||^2, then z <- W z + (new s - old s), where s is a
    client's softmax on the reference samples R, a fixed part of the public set, and W the Metropolis weights of the graph.
    What travels: z, 4 |R| C bytes along each directed edge and round; the server only passes it on, so a client uploads
    4 |R| C bytes and is sent as much from each neighbour. ``edges`` counts these, ``edge_bytes`` is what one of them carried.
    A client's first z is its first s. An edge counts in a round if both its ends uploaded, so that failures and absences keep
    the mean of all z the mean of all s; a client whose neighbours are missing goes on with its own z. z may leave [0, 1]:
    it travels as an embedding, for which [privacy] has no mechanism. Lossy codecs round z where it is kept too, and what they
    took is given back a round later: else the mean of all z would wander off.
    Deviations: a step takes a batch of R for a batch of the client's samples, instead of all of R; all of z travels, not a
    random part. rho is ours; learning rates are those of [train], where the proof lets them fall. The optimiser is new each
    round.
    """

    rho: Annotated[float, Field(ge=0)] = 5.0  # weight of the consensus
    graph: Literal["ring", "torus", "random_regular", "full"] = "ring"
    degree: Annotated[int, Field(ge=1)] = 4  # neighbours of each client, of random_regular
    public_size: Annotated[int, Field(ge=0)] = 0  # |R|, 0 = all

    paper: ClassVar[str] = "Bistritz et al., NeurIPS 2020"
    sends: ClassVar[str] = "soft decisions on public samples, to the neighbours on a graph"
    needs: ClassVar[Needs] = Needs(labels=True, public=True)
    outlives_its_round: ClassVar[bool] = False  # its sender has gone on, and mixing an older z would change the mean

    def _peers(self, node: Node) -> tuple[tuple[tuple[int, ...], ...], Tensor]:
        return peers(self.graph, node.experiment.data.clients, self.degree, node.experiment.seed)

    def check(self, experiment: Experiment) -> None:
        """Neighbours must read of a table what its sender keeps."""
        self.needs.check(type(self).__name__, experiment)
        if svd := [name for name in experiment.downlink if name.startswith("svd")]:
            raise InputError(f"downlink: {svd[0]} would cut the tables of several neighbours as one: put it on the uplink only")

    def first_broadcast(self, server: Server) -> Knowledge:
        """Nothing; an impossible graph is found out here."""
        self._peers(server)
        return Knowledge()

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """The client's z."""
        shape = (len(server.public_subset(self.public_size, round=0)), server.classes)
        return {"consensus": TensorSpec(shape, torch.float32, "embedding")}

    def check_upload(self, server: Server, upload: Knowledge) -> None:
        """Mixing keeps the sum of a row, which is 1 for a softmax, and its size."""
        z = upload.tensors["consensus"]
        if not bool(((z.sum(1) - 1).abs() <= 0.01).all()) or float(z.abs().max()) > 10:
            raise ValueError("its consensus has a row that does not sum to 1, or a value beyond 10")

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Hear the neighbours, train towards what they think, say what is thought now."""
        net, data = client.net(init="own", keep=True), client.train.labelled()
        reference = client.public_subset(self.public_size, round=0)
        if met := "consensus" in client.memory:
            z = hear(client.memory, broadcast, "consensus", self._peers(client)[1][client.id])  # (P, C)
            table, stream = Table(reference.samples.indices, z), reference.stream("reference")

            def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
                public = next(stream)
                logits = net(torch.cat([batch.images, public.images]))  # (B + B', C)
                gap = logits[len(batch) :].float().softmax(1) - table.rows(public.ids).to(client.device)
                consensus = 0.5 * self.rho * gap.square().sum(1).mean()
                return {"cross_entropy": cross_entropy_loss(logits[: len(batch)], batch.labels), "consensus": consensus}

        losses = fit(net, data, loss) if met else train_on_labels(net, data)
        s = predict_public(net, reference).softmax(1)
        z = z + s - client.memory.tensor("decisions") if met else s
        client.memory["consensus"] = told = as_heard(client, z, "embedding")
        client.memory["decisions"] = s + (told - z)  # what codecs took of z now is given back in the next step
        heard = list(broadcast.tensors.values())  # [(deg, P, C)] or nothing
        edges = {"edges": sum(map(len, heard)), "edge_bytes": 4 * z.numel() if heard else 0}
        return Knowledge.of("embedding", {"consensus": z}, weight=len(data), metrics={**losses, **edges})

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """No step of its own: to each client the tables of its neighbours."""
        return route(uploads, "consensus", self._peers(server)[0], round=server.round)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}
