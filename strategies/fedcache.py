"""FedCache: the server keeps what clients' nets say of each sample, and teaches a sample by those most like it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedkd import (
    Batch,
    Classifier,
    Client,
    InputError,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Positive,
    Server,
    Split,
    Strategy,
    TensorSpec,
    UpTo,
    classifier,
    fit,
    predict,
)
from fedkd.experiment.algorithm.conditions import Idle, Unless
from fedkd.losses import kd_loss
from fedkd.methods.kept_table import KeptTable, ids_of, owner_of
from fedkd.nets import Net

#: In the server's memory: the table of all clients' samples, and for each the places of its neighbours in that table.
CACHE, NEIGHBOURS = "cache", "neighbours"
#: So many rows are compared with all of their class at a time.
BLOCK = 1024


@final
@dataclass(frozen=True)
class FedCache(Strategy):
    """Each sample is taught its label and the mean of what clients' nets last said of samples of that label like it.

    Paper: Wu et al., "FedCache: A Knowledge Cache-driven Federated Learning Architecture for Personalized Edge
    Intelligence", IEEE TMC 2024, arXiv 2308.07816.
    What travels: for each client and round 4 n C bytes up, the logits of its n samples, and 4 n C down, their teachers,
    but none before it has uploaded; with its first upload also n (4 D + 4), a hash of each sample and its label. C
    classes, D the width of the hash. Nets may differ.
        cross-entropy + weight T² KL(mean of the neighbours' logits || own)
    The server finds each sample's ``neighbours`` nearest ones of its own label, by the cosine of hashes, among the
    samples of all clients, the sample itself left out; again when a client comes for the first time. A class with fewer
    samples has as many neighbours as it has others. A sample that is the only one of its label, whose neighbours have
    not been heard of, or whose client has not, has no teacher and is taught its label only, as are all in the first
    round: ``server_taught`` is the share that is taught, ``server_neighbours`` of how many neighbours on average.
    The hash: the official code takes features of a net that was trained on ImageNet. Here it is the features of the
    first of the experiment's nets as it is built, equal at all clients, in eval mode: a random projection, unless that
    net is one of the user's own that comes with weights, which is what the paper asks for.
    Of a client that stays away the server keeps what it said in the last round in which it took part. Logits are those
    of the training steps, in train mode, the last of each sample, so that no pass over the samples is added. A row of
    zeros says nothing.
    Deviations: there the cache is full of zeros at first, which teaches a uniform prediction in the first round; a
    class with too few samples fails; neighbours are found approximately; clients come in turn within a round, each
    learning from what those before it just said, samples unshuffled. Its temperature of 1 is not used: 3 is, as here.
    Labels and hashes of all samples go to the server, which [privacy] refuses.
    """

    neighbours: Annotated[int, Field(ge=1)] = 16  # R, at most
    weight: NonNegative = 1.5  # alpha, of the distillation term
    temperature: Positive = 3.0  # T, of both softmaxes; the term is multiplied by its square

    paper: ClassVar[str] = "Wu et al., IEEE TMC 2024, arXiv 2308.07816"
    sends: ClassVar[str] = "logits of each own sample, and once a hash and the label of each, up; logits down"
    needs: ClassVar[Needs] = Needs(labels=True)
    idle: ClassVar[Idle] = dict.fromkeys(("neighbours", "temperature"), (Unless(weight=0),))

    def check_samples(self, node: Node) -> None:
        """Refuse a net without features, of which hashes are made."""
        hashing_net(node).feature_width  # noqa: B018 (it raises)

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A row for each sample; hashes and labels until the server has them."""
        held = int((owner_of(KeptTable(server.memory, CACHE).ids) == client).sum())
        most = server.sizes[client] if server.sizes else 0  # there are none under [privacy], which refuses all this
        samples = held or UpTo("samples", most)
        width = server.live("width of hashes", lambda: hashing_net(server).feature_width)
        return {
            "logits": TensorSpec((samples, server.classes), torch.float32, "logits"),
            "hashes": TensorSpec((samples, width), torch.float32, "embedding", optional=held > 0),
            "labels": TensorSpec((samples,), torch.int32, "labels", optional=held > 0),
        }

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs on the client's own net, kept in its memory; logits are noted on the way."""
        net, data = client.net(init="own", keep=True), client.train.labelled()
        teachers = broadcast.tensors.get("teachers", torch.zeros(len(data), client.classes)).to(client.device)  # (n, C)
        if len(teachers) != len(data):
            had = f"the server has been told of {len(teachers)} samples of {client.name}, which has {len(data)}"
            raise InputError(f"data: {had}: a client's samples must stay the same in all rounds of a run")
        last = LastOutputs(samples=len(data), width=client.classes, device=client.device)

        def loss(net: Net, batch: Batch, teachers: Tensor, last: LastOutputs) -> dict[str, Tensor]:
            logits = net(batch.inputs)  # (B, C)
            last.put(batch.positions, logits)
            taught = teachers[batch.positions]
            taught = torch.where(says(taught)[:, None], taught, logits.detach())  # who has no teacher differs by 0
            distillation = kd_loss(logits, taught, temperature=self.temperature)
            return {"cross_entropy": batch.cross_entropy(logits), "distillation": self.weight * distillation}

        losses = fit(net, data, loss, given=(teachers, last))
        upload = Knowledge.of("logits", {"logits": last.values()}, weight=len(data), metrics=losses)
        if "teachers" in broadcast.tensors:
            return upload
        upload = upload.with_tensors("embedding", {"hashes": hashed(client, data)})
        return upload.with_tensors("labels", {"labels": data.samples.labels[data.samples.indices].int()})

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """Put what clients say in the table; for each that it knows, its samples' teachers."""
        table = KeptTable(server.memory, CACHE)
        said = {client: upload.tensors for client, upload in sorted(uploads.items())}
        if new := {client: rows for client, rows in said.items() if "hashes" in rows}:
            names = ("logits", "hashes", "labels")
            table.put(all_ids(new), **{name: torch.cat([rows[name] for rows in new.values()]) for name in names})
            hashes, labels = table.column("hashes"), table.column("labels")
            server.memory[NEIGHBOURS] = nearest_of_label(hashes, labels, self.neighbours)
        if known := {client: rows for client, rows in said.items() if client not in new}:
            logits = torch.cat([rows["logits"] for rows in known.values()])  # (N, C)
            table.put(all_ids(known)[says(logits)], logits=logits[says(logits)])
        teachers, counts = mean_of_neighbours(table.column("logits"), server.memory.tensor(NEIGHBOURS))
        server.report({"taught": float((counts > 0).float().mean()), "neighbours": float(counts.float().mean())})
        clients, samples = owner_of(table.ids).unique_consecutive(return_counts=True)
        of_clients = zip(clients.tolist(), teachers.split(samples.tolist()), strict=True)
        return {client: Knowledge.of("logits", {"teachers": rows}) for client, rows in of_clients}

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}


@final
class LastOutputs:
    """What a net last gave for each sample of a split, noted batch by batch. Nothing of it carries a graph.

    >>> last = LastOutputs(samples=3, width=1)
    >>> last.put(torch.tensor([2, 0]), torch.tensor([[5.0], [4.0]]))
    >>> last.put(torch.tensor([2]), torch.tensor([[6.0]]))
    >>> last.values().tolist()
    [[4.0], [0.0], [6.0]]
    """

    def __init__(self, *, samples: int, width: int, device: torch.device | None = None) -> None:
        self._rows = torch.zeros(samples, width, device=device)  # (N, C)

    def put(self, positions: Tensor, outputs: Tensor) -> None:
        """The net's outputs (B, C), any float type, for the samples at these positions (B,) of the split."""
        self._rows[positions] = outputs.detach().float()

    def values(self) -> Tensor:
        """(N, C) float32 on the CPU; zeros for a sample that no batch held."""
        return self._rows.cpu()


def hashing_net(node: Node) -> Net:
    """The first of the experiment's nets as it is built, the same at every node."""
    return node.net("hash", architecture=node.experiment.architectures[0])


def hashed(client: Client, data: Split) -> Tensor:
    """Features of these samples by the net that makes hashes. (n, D) float32"""
    return predict(hashing_net(client).eval().features, data.samples, data.work)


def all_ids(said: Mapping[int, Mapping[str, Tensor]]) -> Tensor:
    """The ids of all samples that these clients speak of, client by client."""
    return torch.cat([ids_of(client, len(rows["logits"])) for client, rows in said.items()])


def says(rows: Tensor) -> Tensor:
    """Whether a row (N, C) says anything: one of zeros does not. (N,) bool"""
    return (rows != 0).any(1)


def nearest_of_label(hashes: Tensor, labels: Tensor, count: int) -> Tensor:
    """For each sample the places of those of its label that are most like it, the most alike first, never its own.

    Args:
        hashes: (N, D); compared by their cosine.
        labels: (N,) integer.
        count: R, how many are looked for.

    Returns:
        (N, R) int64; -1 where the label has no further samples.

    >>> hashes = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [1.0, 0.0]])
    >>> nearest_of_label(hashes, torch.tensor([5, 5, 5, 7]), 2).tolist()
    [[1, 2], [0, 2], [1, 0], [-1, -1]]
    """
    units, found = F.normalize(hashes.float(), dim=1), torch.full((len(hashes), count), -1)
    for label in labels.unique():
        places = (labels == label).nonzero().squeeze(1)  # (M,)
        of_label, most = units[places], min(count, len(places) - 1)
        for block, at in zip(of_label.split(BLOCK), torch.arange(len(places)).split(BLOCK), strict=True):
            alike = block @ of_label.T  # (B, M)
            alike[torch.arange(len(at)), at] = -torch.inf
            found[places[at], :most] = places[alike.topk(most, dim=1).indices]
    return found


def mean_of_neighbours(logits: Tensor, neighbours: Tensor) -> tuple[Tensor, Tensor]:
    """The mean row of each sample's neighbours that say anything, zeros where none does, and of how many it is.

    Args:
        logits: (N, C).
        neighbours: (N, R) int64 places in ``logits``; -1 for none.

    Returns:
        (N, C) float32 and (N,) int64.

    >>> rows = torch.tensor([[2.0, 4.0], [4.0, 0.0], [0.0, 0.0]])
    >>> [each.tolist() for each in mean_of_neighbours(rows, torch.tensor([[1, 2], [0, -1], [0, 1]]))]
    [[[4.0, 0.0], [2.0, 4.0], [3.0, 2.0]], [1, 1, 2]]
    """
    places = neighbours.clamp_min(0)
    counted = (neighbours >= 0) & says(logits)[places]  # (N, R)
    sums = F.embedding_bag(places, logits, mode="sum", per_sample_weights=counted.float())
    counts = counted.sum(1)
    return sums / counts.clamp_min(1)[:, None], counts
