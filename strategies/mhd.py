"""MHD: each net has a chain of heads, and head k learns from the most confident head k - 1 among its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedkd import (
    Batch,
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Positive,
    Server,
    Split,
    Strategy,
    TensorSpec,
    classifier,
    fit,
    predict,
)
from fedkd.aggregate import mean, renormalise, stack
from fedkd.aggregate.topology import Neighbours, graph
from fedkd.base.inputs import Inputs, concatenate
from fedkd.experiment.algorithm.conditions import Beyond, Idle, Unless, When
from fedkd.losses import soft_cross_entropy
from fedkd.methods.prototypes import common_width
from fedkd.methods.public_distillation import train_on_labels

#: Why features must be of one width, as a message says it.
COMPARED = "nets with strategy.embedding_weight above 0"


@final
@dataclass(frozen=True)
class MHD(Strategy):
    """The main head learns own labels; each further head learns, on public samples, from the surest head before it.

    Paper: Zhmoginov et al., "Decentralized Learning with Multi-Headed Distillation", CVPR 2023, arXiv 2211.15774.
    What travels: 4 P (m C + D) bytes up and as many down for each client and round; m auxiliary heads, P public samples
    of the round, C classes, D features.
    Heads 0 to m, 0 the main one, are linear layers on the same features f. In each step, for a batch of own samples and
    one x of public samples, with p_jk what head k of client j says of x and n clients j next to client i on the graph:
        CE(head 0, y) + distillation_weight * sum over k = 1 .. m of CE(q_k, head k)
        + embedding_weight / n * sum over j of || f_i / |f_i| - f_j / |f_j| ||^2
        q_k = the one of p_ik-1 and all p_jk-1 whose largest probability is the largest, for each sample; a constant
    So head 1 copies main heads, head 2 first heads, and what a client knows comes k edges far by head k only, but for
    what the common features carry. A neighbour's answers are those after its last round, about that round's public
    samples; one's own are of the step. Where no neighbour uploaded, a client trains on its own samples alone.
    The headline is the last head, which the paper scores on all classes; ``client_main_accuracy`` is that of the main
    head on a client's own test samples. What is exported is the net with its main head.
    The server only passes on what neighbours would: it picks the most confident of them and takes the mean of their
    directions, of which a client learns the same as of all of them, so that down are no more bytes than up, however
    many neighbours. ``edges`` counts these, ``edge_bytes`` is what each would be sent without a server.
    With embedding_weight = 0 no features travel, which may then differ in D, and [privacy] can noise what does.
    The paper has no code, and but for its abstract all here is from memory: squared distances, soft targets, 4 heads,
    weights of 3 and 1. A large distillation_weight makes small nets learn each other's first, random answers, and holds
    the main head back: hence 1. From memory too: there a client draws some neighbours for each step, from checkpoints
    exchanged every 200 steps, and the embedding term is a sum over these; here all neighbours count, and it is a mean.
    Head m teaches nobody, so its answers are not sent. The optimiser is new each round.
    """

    heads: Annotated[int, Field(ge=0)] = 4  # m, auxiliary heads of each net
    distillation_weight: Positive = 1.0  # of what each auxiliary head learns
    embedding_weight: NonNegative = 1.0  # of the distance of features to the neighbours'
    graph: Literal["ring", "torus", "random_regular", "full"] = "full"  # who is whose neighbour
    degree: Annotated[int, Field(ge=1)] = 4  # neighbours of each client, of random_regular
    public_per_round: Annotated[int, Field(ge=0)] = 1000  # samples; 0 = all, fewer where there are fewer

    paper: ClassVar[str] = "Zhmoginov et al., CVPR 2023, arXiv 2211.15774"
    sends: ClassVar[str] = "answers and features of public samples, to the neighbours on a graph"
    needs: ClassVar[Needs] = Needs(labels=True, public=True)
    outlives_its_round: ClassVar[bool] = False
    idle: ClassVar[Idle] = {
        "distillation_weight": (Unless(heads=0),),
        "graph": (Unless(heads=0, embedding_weight=0),),
        "degree": (When("graph", "random_regular"),),
        "public_per_round": (Unless(heads=0, embedding_weight=0), Beyond("public_per_round")),
    }

    def _neighbours(self, node: Node) -> Neighbours:
        experiment = node.experiment
        return graph(self.graph, experiment.data.clients, degree=self.degree, seed=experiment.seed)

    def check_samples(self, node: Node) -> None:
        """Refuse nets without features, and features that cannot be compared."""
        for name in dict.fromkeys(node.experiment.architectures):
            _ = node.net(name, architecture=name).classifier  # an InputError where it has none
        if self.embedding_weight:
            common_width(node, what=COMPARED)

    def first_broadcast(self, server: Server) -> Knowledge:
        """Nothing; an impossible graph is refused here."""
        self._neighbours(server)
        return Knowledge()

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """What each head but the last says, and features brought to length 1."""
        samples = len(server.public_subset(self.public_per_round))
        answers = TensorSpec((samples, server.classes), torch.float32, "probabilities")
        schema = {f"head_{k}": answers for k in range(self.heads)}
        if self.embedding_weight:
            width = common_width(server, what=COMPARED)
            schema["directions"] = TensorSpec((samples, width), torch.float32, "embedding")
        return schema

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Epochs on own samples, and public ones beside them if neighbours spoke; then answers about this round's."""
        nets, data = self._nets(client), client.train.labelled()
        losses = self._learn(client, nets, data, broadcast) if broadcast.tensors else train_on_labels(nets["net"], data)
        upload = self._said(client, nets)
        edges = {"edges": int(broadcast.header.get("neighbours", 0)), "edge_bytes": upload.raw_bytes}
        return Knowledge(upload.tensors, upload.spaces, weight=len(data), metrics={**losses, **edges})

    def _nets(self, client: Client) -> Any:
        net = client.net(init="own", keep=True)

        def build() -> nn.ModuleList:
            return nn.ModuleList(nn.Linear(net.feature_width, client.classes) for _ in range(self.heads))

        heads = client.module("auxiliary heads", build, init="own", keep=True)
        return nn.ModuleDict({"net": net, "heads": heads})

    def _learn(self, client: Client, nets: Any, data: Split, broadcast: Knowledge) -> dict[str, float]:
        public = client.public_subset(self.public_per_round, round=int(broadcast.header["round"]))
        stream = public.stream("public")

        def loss(nets: Any, batch: Batch, answers: Tensor | None, directions: Tensor | None) -> dict[str, Tensor]:
            shown = next(stream)
            features = nets["net"].encoded(concatenate([batch.inputs, shown.inputs]))  # (B + B', D)
            own, seen = features[: len(batch)], features[len(batch) :]
            parts = {"cross_entropy": batch.cross_entropy(nets["net"].head("classifier", own))}
            if answers is not None:
                distillation = chain_loss(logits_of(nets, seen), answers[:, shown.positions])
                parts["distillation"] = self.distillation_weight * distillation
            if directions is not None:
                distance = squared_distance(seen, directions[shown.positions])
                parts["embedding_distillation"] = self.embedding_weight * distance
            return parts

        heard = [broadcast.tensors[f"head_{k}"] for k in range(self.heads)]
        answers = torch.stack(heard).to(client.device) if heard else None  # (m, P, C)
        directions = broadcast.tensors["directions"].to(client.device) if self.embedding_weight else None  # (P, D)
        return fit(nets, data, loss, given=(answers, directions))

    def _said(self, client: Client, nets: Any) -> Knowledge:
        if not (self.heads or self.embedding_weight):
            return Knowledge()

        def said(inputs: Inputs) -> Tensor:
            features = nets["net"].encoded(inputs)
            answers = logits_of(nets, features)[: self.heads].softmax(2)  # (m, B, C)
            directions = [F.normalize(features, dim=1)] if self.embedding_weight else []
            return torch.cat([*answers, *directions], dim=1)  # (B, m C + D)

        nets.eval()
        public = client.public_subset(self.public_per_round)
        *answers, directions = predict(said, public.samples, public.work).tensor_split(
            [client.classes * k for k in range(1, self.heads + 1)], dim=1
        )
        upload = Knowledge.of("probabilities", {f"head_{k}": table.contiguous() for k, table in enumerate(answers)})
        beside = {"directions": directions.contiguous()} if self.embedding_weight else {}
        return upload.with_tensors("embedding", beside)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """To each client what its neighbours said."""
        neighbours = self._neighbours(server)
        return {
            client: relayed({other: uploads[other] for other in neighbours[client] if other in uploads}, server.round)
            for client in server.clients
        }

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's last head and its main one; the server has none."""
        if not isinstance(node, Client):
            return {}
        nets = self._nets(node).eval()
        last = Classifier(lambda inputs: logits_of(nets, nets["net"].encoded(inputs))[-1])
        return {**({"last_head": last} if self.heads else {}), "main": classifier(nets["net"])}


def logits_of(nets: Any, features: Tensor) -> Tensor:
    """What all heads make of features (B, D), the main one first: (m + 1, B, C)."""
    return torch.stack([nets["net"].head("classifier", features), *(head(features) for head in nets["heads"])])


def relayed(uploads: Mapping[int, Knowledge], round: int) -> Knowledge:
    """What is passed on of neighbours: of each head the surest answer to each sample, and the mean of directions."""
    if not uploads:
        return Knowledge()
    tables: dict[str, Tensor] = {}
    spaces = next(iter(uploads.values())).spaces
    for name, space in spaces.items():
        said = stack(uploads, name)  # (n, P, C) or (n, P, D)
        is_answer = space == "probabilities"
        tables[name] = most_confident(renormalise(said.clamp_min(0))) if is_answer else mean(F.normalize(said, dim=2))
    return Knowledge(tables, spaces, header={"round": round, "neighbours": len(uploads)})


def most_confident(answers: Tensor) -> Tensor:
    """For each row the one of n answers whose largest probability is the largest: (n, ..., C) -> (..., C).

    >>> most_confident(torch.tensor([[[0.5, 0.5], [0.0, 1.0]], [[0.75, 0.25], [0.25, 0.75]]])).tolist()
    [[0.75, 0.25], [0.0, 1.0]]
    """
    surest = answers.amax(-1).argmax(0)  # (...)
    return answers.take_along_dim(surest[None, ..., None], 0)[0]


def chain_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy of each head with the surest answer of heads before it, one's own among them; the sum over heads.

    Args:
        logits: (m + 1, B, C) of one's own heads, the main one first, which learns nothing here.
        answers: (m, B, C) probabilities of others' heads but the last ones.

    Returns:
        (), the mean over samples.

    >>> logits = torch.tensor([[[0.0, 3.0]], [[0.0, 1.0]]]).log1p()  # (1/5, 4/5) and (1/3, 2/3)
    >>> round(chain_loss(logits, torch.tensor([[[0.5, 0.5]]])).item(), 4)  # own: (log 3) / 5 + 4 (log 3/2) / 5
    0.5441
    """
    own = logits[:-1].detach().softmax(2, dtype=torch.float32)
    targets = most_confident(torch.stack([own, answers]))  # (m, B, C)
    terms = [soft_cross_entropy(head, target) for head, target in zip(logits[1:], targets, strict=True)]
    return torch.stack(terms).sum()


def squared_distance(features: Tensor, directions: Tensor) -> Tensor:
    """Mean over samples, and over neighbours, of ||f / |f| - d||^2 for directions d of length 1, whose mean is given.

    Args:
        features: f, (B, D).
        directions: the mean over neighbours of d, (B, D).

    >>> round(squared_distance(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.5, 0.5]])).item(), 4)  # (1, 0), (0, 1)
    0.6
    """
    return 2 - 2 * (F.normalize(features.float(), dim=1) * directions).sum(1).mean()
