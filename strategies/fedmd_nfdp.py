"""FedMD-NFDP: FedMD whose clients train on a part of their samples, drawn once: privacy without noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedkd import (
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Server,
    Settings,
    Split,
    Strategy,
    TensorSpec,
    classifier,
)
from fedkd.aggregate import mean, stack
from fedkd.experiment.algorithm.conditions import Beyond, Idle, When
from fedkd.knowledge.privacy import largest_subsample, subsample_guarantee, subsample_once
from fedkd.losses import logit_mae, soft_cross_entropy
from fedkd.methods.public_distillation import (
    DistillationLoss,
    distil,
    predict_public,
    stacked_probabilities,
    train_on_labels,
    warm_up,
)


@final
@dataclass(frozen=True)
class FedMDNFDP(Strategy):
    """FedMD on k of a client's n samples: what it uploads is (epsilon, delta)-differentially private.

    Paper: Sun and Lyu, "Federated Model Distillation with Noise-Free Differential Privacy", IJCAI 2021, arXiv
    2009.05537.
    What travels: 4 P C bytes up for each client and round, of ``labels`` P bytes (4 P above 256 classes); 4 P C bytes
    down.
    P public samples of the round, C classes. No sample ids: everybody draws the same ones.
    The unit is one sample of one client. The metrics ``epsilon`` and ``delta`` are each client's own in clients.jsonl;
    a row has the largest of its clients'. Delta, the share of samples that are drawn, is not small. What the guarantee
    does not cover: n itself, and a round or hyperparameter chosen by accuracy on samples outside the subset.
    Deviations: those of FedMD here (no early stopping, which would spend privacy too; [train]'s batches and optimiser
    in all phases). Of labels the server sends vote shares; these and probabilities are digested by soft cross-entropy.
    """

    subsample: Annotated[float, Field(gt=0, le=1)] = 0.5  # k / n, the share of a client's samples that it trains on
    epsilon: NonNegative = 0.0  # above 0: k is the largest that costs no more, and ``subsample`` has no effect
    replacement: bool = False  # whether a sample may be drawn twice
    knowledge: Literal["logits", "probabilities", "labels"] = "logits"  # what clients say of public samples
    public_per_round: Annotated[int, Field(ge=0)] = 5000  # samples; 0 = all, fewer where there are fewer
    digest_epochs: Annotated[int, Field(ge=1)] = 1  # of the digest, on what all clients said together
    public_epochs: Annotated[int, Field(ge=0)] = 20  # of the warm-up, on the public samples if these have labels
    private_epochs: Annotated[int, Field(ge=0)] = 25  # of the warm-up, on the client's own

    paper: ClassVar[str] = "Sun and Lyu, IJCAI 2021, arXiv 2009.05537"
    sends: ClassVar[str] = "logits, probabilities or labels of public samples, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, uses=("public_labels",))
    outlives_its_round: ClassVar[bool] = False
    idle: ClassVar[Idle] = {
        "subsample": (When("epsilon", 0),),
        "public_per_round": (Beyond("public_per_round"),),
    }

    def exchanges_per_round(self, experiment: Settings) -> int:
        """One to upload predictions, one to learn."""
        return 2

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A row for each public sample of the round in the first exchange, nothing in the second."""
        form, samples = FORMS[self.knowledge], len(server.public_subset(self.public_per_round))
        return {} if server.exchange else {form.space: form.spec(samples, server.classes)}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """FedMD's two exchanges, on the drawn samples alone."""
        net, form, data = client.net(init="own", keep=True), FORMS[self.knowledge], self._drawn(client)
        subset = client.public_subset(self.public_per_round)
        if client.exchange == 0:
            warm_up(client, net, data, public_epochs=self.public_epochs, private_epochs=self.private_epochs)
            predictions = form.of_logits(predict_public(net, subset))
            return Knowledge.of(form.space, {form.space: predictions}, weight=len(data))
        targets, optimizer = broadcast.tensors["consensus"], client.optimizer("digest", net)
        digest = distil(net, subset, targets, form.loss, part="digest", optimizer=optimizer, epochs=self.digest_epochs)
        revisit = train_on_labels(net, data, optimizer=client.optimizer("revisit", net))
        spent = subsample_guarantee(len(client.train.labelled()), len(data), replacement=self.replacement)
        private = {"epsilon": spent.epsilon, "delta": spent.delta}
        return Knowledge(weight=len(data), metrics={**revisit, "digest": digest["digest"], **private})

    def _drawn(self, client: Client) -> Split:
        """The same samples in every round: a second draw would add to what is spent."""
        data = client.train.labelled()
        k = largest_subsample(len(data), self.epsilon, replacement=self.replacement)
        k = k if self.epsilon else max(1, round(self.subsample * len(data)))
        drawn = subsample_once(len(data), k, client.lasting_rng("subsample"), replacement=self.replacement)
        return client.split(data.samples.subset(drawn))

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean of the clients' predictions, every client counting the same."""
        if server.exchange:
            # Under [privacy] an upload has none.
            spent = [upload.metrics for upload in uploads.values() if "epsilon" in upload.metrics]
            largest = {name: max(each[name] for each in spent) for name in ("epsilon", "delta") if spent}
            server.report(largest, prefix="")
            return Knowledge()
        form = FORMS[self.knowledge]
        return Knowledge.of(form.consensus_space, {"consensus": form.consensus(uploads, server.classes)})

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}


# ---- in which form predictions travel


@final
@dataclass(frozen=True)
class Form:
    """A form of predictions: what a client uploads, what the server makes of it, how others learn from that."""

    space: str  # of what clients upload; also the tensor's name
    consensus_space: str
    of_logits: Callable[[Tensor], Tensor]  # (P, C) -> what travels, a row a sample
    consensus: Callable[[Mapping[int, Knowledge], int], Tensor]  # uploads, C -> (P, C), every client counting the same
    loss: DistillationLoss

    def spec(self, samples: int, classes: int) -> TensorSpec:
        """What an upload about so many samples holds."""
        example = self.of_logits(torch.zeros(samples, classes))
        return TensorSpec(tuple(example.shape), example.dtype, self.space)


def most_likely(logits: Tensor) -> Tensor:
    """The class ids (P,), in one byte each up to 256 classes."""
    return logits.argmax(1).to(torch.uint8 if logits.shape[1] <= 256 else torch.int32)


def vote_shares(uploads: Mapping[int, Knowledge], classes: int) -> Tensor:
    """The share of the clients that named each class. (P, C) float32"""
    return mean(F.one_hot(stack(uploads, "labels").long(), classes).float())  # of (K, P, C)


FORMS = {
    "logits": Form(
        "logits",
        "logits",
        lambda logits: logits,
        lambda uploads, _: mean(stack(uploads, "logits")),
        logit_mae,
    ),
    "probabilities": Form(
        "probabilities",
        "probabilities",
        lambda logits: logits.softmax(1),
        lambda uploads, _: mean(stacked_probabilities(uploads)),
        soft_cross_entropy,
    ),
    "labels": Form("labels", "probabilities", most_likely, vote_shares, soft_cross_entropy),
}
