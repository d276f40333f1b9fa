"""FedMD: nets of any architecture agree on their logits of public samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field

from fedkd import (
    Classifier,
    Client,
    Knowledge,
    Needs,
    Node,
    NonNegative,
    Positive,
    Server,
    Settings,
    Strategy,
    TensorSpec,
    classifier,
)
from fedkd.aggregate import REDUCTIONS, stack
from fedkd.experiment.algorithm.conditions import Beyond, Idle, When
from fedkd.losses.distillers import SOFTENED, LogitLossName, logit_loss
from fedkd.methods.guarded import Reduction, guarded
from fedkd.methods.public_distillation import distil, predict_public, train_on_labels, warm_up


@final
@dataclass(frozen=True)
class FedMD(Strategy):
    """Clients send logits of this round's public samples, digest their plain mean, then revisit their own samples.

    Paper: Li and Wang, "FedMD: Heterogenous Federated Learning via Model Distillation", arXiv 1910.03581, Algorithm 1.
    What travels: 4 P C bytes up and as many down for each client and round, P public samples of the round and C
    classes. No sample ids: everybody draws the same ones.
    A client that takes part for the first time warms up: on the public samples, if ``data.public_labels`` gives their
    labels (without them this half is left out), then on its own. Digest and revisit each have an optimiser, kept over
    the rounds; as in the official code the second half of the warm-up is the revisit's first training.
    Deviations: the official code ends the warm-up by early stopping, of its second half on the private test set, a
    leak; here it takes a fixed number of epochs, the code's limits. Batch sizes and optimiser are those of [train], for
    every phase (the code has Adam, batches of 256 to digest and of 5 to revisit, and weight decay on the last layer
    only); revisit takes ``train.epochs``. The code draws the round's public samples by class; here the draw is uniform.
    """

    public_per_round: Annotated[int, Field(ge=0)] = 5000  # N_align, samples; 0 = all, fewer where there are fewer
    aggregate: Reduction = "mean"  # how the server sums up the clients' logits; the paper's is the mean
    expguard: NonNegative = 0.0  # eta: how fast a client that stands out loses its weight; 0 = off, as in the paper
    digest_epochs: Annotated[int, Field(ge=1)] = 1  # of the digest, on what all clients said together
    loss: LogitLossName = "logit_mae"  # of the digest, on logits, by name: see `fedkd losses`
    temperature: Positive = 4.0  # of that loss, if it has one; "kd" is multiplied by its square
    public_epochs: Annotated[int, Field(ge=0)] = 20  # of the warm-up, on the public samples if these have labels
    private_epochs: Annotated[int, Field(ge=0)] = 25  # of the warm-up, on the client's own

    paper: ClassVar[str] = "Li and Wang 2019, arXiv 1910.03581"
    sends: ClassVar[str] = "logits of public samples, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, uses=("public_labels",))
    outlives_its_round: ClassVar[bool] = False
    idle: ClassVar[Idle] = {
        "temperature": (When("loss", *SOFTENED),),
        "public_per_round": (Beyond("public_per_round"),),
    }

    def exchanges_per_round(self, experiment: Settings) -> int:
        """One to upload logits, one to learn."""
        return 2

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Logits in the first exchange, nothing in the second."""
        shape = (len(server.public_subset(self.public_per_round)), server.classes)
        return {} if server.exchange else {"logits": TensorSpec(shape, torch.float32, "logits")}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Communicate, then, in the second exchange, digest and revisit."""
        net, data = client.net(init="own", keep=True), client.train.labelled()
        subset = client.public_subset(self.public_per_round)
        if client.exchange == 0:
            warm_up(client, net, data, public_epochs=self.public_epochs, private_epochs=self.private_epochs)
            return Knowledge.of("logits", {"logits": predict_public(net, subset)}, weight=len(data))
        targets, optimizer = broadcast.tensors["logits"], client.optimizer("digest", net)
        loss = logit_loss(self.loss, temperature=self.temperature)
        digest = distil(net, subset, targets, loss, part="digest", optimizer=optimizer, epochs=self.digest_epochs)
        revisit = train_on_labels(net, data, optimizer=client.optimizer("revisit", net))
        return Knowledge(weight=len(data), metrics={**revisit, "digest": digest["digest"]})

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The mean of the logits, every client counting the same, unless told otherwise."""
        if server.exchange:
            return Knowledge()
        logits, base = stack(uploads, "logits"), REDUCTIONS[self.aggregate]
        return Knowledge.of("logits", {"logits": guarded(server, logits, uploads, base, expguard=self.expguard)})

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}
