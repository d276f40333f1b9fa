"""Cronus: robustly averaged predictions of public samples, learnt together with one's own samples."""

from __future__ import annotations

import math
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
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Server,
    Split,
    Strategy,
    Table,
    TensorSpec,
    classifier,
    fit,
)
from fedkd.aggregate import REDUCTIONS, renormalise
from fedkd.base.inputs import concatenate
from fedkd.experiment.algorithm.batches import batch_sizes, batches_a_round
from fedkd.experiment.algorithm.conditions import Beyond, Idle, OfSomebody, When, Within
from fedkd.experiment.algorithm.train import Draw
from fedkd.methods.guarded import Reduction, guarded
from fedkd.methods.public_distillation import predict_public, stacked_probabilities, train_on_labels
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class Cronus(Strategy):
    """Rounds of local training, then on own and public samples mixed, these labelled by a robust mean of all clients.

    Paper: Chang et al., "Cronus: Robust and Heterogeneous Collaborative Learning with Black-Box Knowledge Transfer",
    arXiv 1912.11279.
    What travels: 4 P C bytes up and as many down for each client and round, P public samples and C classes; from the
    last local round on.
    Deviations: there is no official code, and the equations are as usually stated. A client's n own samples and the P
    public ones are not shuffled into one pool but dealt evenly, n : P, over as many batches as the pool would fill:
    each sample comes once an epoch, and weighs the same: ``train.label_smoothing`` and ``class_weights`` count in the
    local rounds only. The optimiser is new each round. What the filter does, and when it can do little (it wants many
    more clients than classes), stands in fedkd/aggregate/spectral.py.
    """

    local_rounds: Annotated[int, Field(ge=1)] = 1  # T_1, first rounds alone, the last with an upload
    aggregate: Reduction = "spectral_filter"  # how the server sums up the clients' answers
    expguard: NonNegative = 0.0  # eta: how fast a client that stands out loses its weight; 0 = off, as in the paper
    corrupt: Annotated[float, Field(ge=0, lt=0.5)] = 0.25  # epsilon: the share of clients that may be left out
    public_samples: Annotated[int, Field(ge=0)] = 0  # of the one public subset for the whole run; 0 = all

    paper: ClassVar[str] = "Chang et al. 2019, arXiv 1912.11279"
    sends: ClassVar[str] = "probabilities of public samples, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, public=True)
    renamed: ClassVar[Mapping[str, str]] = {"public_size": "public_samples"}
    idle: ClassVar[Idle] = {
        **dict.fromkeys(("aggregate", "expguard"), (Within("local_rounds"),)),
        "corrupt": (
            Within("local_rounds"),
            When("aggregate", "trimmed_mean", "spectral_filter"),
            OfSomebody("corrupt"),
        ),
        "public_samples": (Beyond("public_samples"),),
    }

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A row for each of the fixed public samples; nothing before the last local round."""
        shape = (len(server.public_subset(self.public_samples, round=0)), server.classes)
        probabilities = TensorSpec(shape, torch.float32, "probabilities")
        return {} if 0 < server.round < self.local_rounds else {"probabilities": probabilities}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs, with the public samples once these are labelled; then predict them."""
        net, data = client.net(init="own", keep=True), client.train.labelled()
        public, labels = client.public_subset(self.public_samples, round=0), broadcast.tensors.get("probabilities")
        losses = train_on_labels(net, data) if labels is None else train_on_both(net, data, public, labels)
        upload = {"probabilities": predict_public(net, public).softmax(1)} if client.round >= self.local_rounds else {}
        return Knowledge.of("probabilities", upload, weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The robust mean of each public sample's predictions, back on the simplex."""
        # An upload of a local round, which is empty, may come late.
        full = {client: upload for client, upload in uploads.items() if upload.tensors}
        if not full:
            return Knowledge()
        answer = guarded(server, stacked_probabilities(full), full, self._reduced, expguard=self.expguard)
        return Knowledge.of("probabilities", {"probabilities": answer})

    def _reduced(self, values: Tensor) -> Tensor:
        bounded = {"share": self.corrupt} if self.aggregate in ("trimmed_mean", "spectral_filter") else {}
        return renormalise(REDUCTIONS[self.aggregate](values, **bounded).clamp_min(0))  # of (K, P, C)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}


def train_on_both(net: Net, data: Split, public: Split, labels: Tensor) -> dict[str, float]:
    """Epochs over own samples and public ones with soft labels (P, C), some of each in every forward pass."""
    settings, table = data.work.settings, Table(public.samples.indices, labels)
    pool = len(data) + len(public)
    epoch, steps = len(batch_sizes(pool, settings.batch_size)), batches_a_round(pool, settings)
    draws, others = (dealt(split, epoch, steps, split.rng(name)) for split, name in ((data, "own"), (public, "public")))
    beside = map(public.batch, others)

    def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
        other = next(beside)
        logits = net(concatenate([batch.inputs, other.inputs]))  # (B + B', C)
        log_p = logits.float().log_softmax(1)
        own = F.nll_loss(log_p[: len(batch)], batch.labels, reduction="sum")  # 0 where a batch has none
        soft = -(table.rows(other.ids).to(log_p.device) * log_p[len(batch) :]).sum()
        return {"cross_entropy": own / len(logits), "distillation": soft / len(logits)}

    return fit(net, data, loss, draws=draws)


def dealt(data: Split, hands: int, steps: int, rng: torch.Generator) -> list[Draw]:
    """So many steps; each epoch all samples, shuffled, in ``hands`` parts of nearly equal size."""
    orders = [torch.randperm(len(data), generator=rng) for _ in range(math.ceil(steps / hands))]
    return [Draw(part, 0) for order in orders for part in order.tensor_split(hands)][:steps]
