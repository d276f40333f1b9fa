"""DS-FL: clients label public samples together, sharply, and learn from those labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

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
from fedkd.aggregate import REDUCTIONS, entropy_reduction, power, renormalise
from fedkd.experiment.algorithm.conditions import Beyond, Idle, When
from fedkd.losses import soft_cross_entropy
from fedkd.methods.guarded import Reduction, guarded
from fedkd.methods.public_distillation import distil, predict_public, stacked_probabilities, train_on_labels


@final
@dataclass(frozen=True)
class DSFL(Strategy):
    """Train on own samples, predict public ones; the sharpened mean labels them for all clients and the server's net.

    Paper: Itahara et al., "Distillation-Based Semi-Supervised Federated Learning for Communication-Efficient
    Collaborative Training With Non-IID Private Data", IEEE TMC 2021, arXiv 2008.06180.
    What travels: 4 P C bytes up and as many down for each client and round, P public samples of the round and C
    classes. No sample ids: everybody draws the same ones.
    ``entropy_reduction`` is the paper's: softmax of the mean probabilities over 0.1. It sharpens what is neither nearly
    one-hot nor uniform; ``power``, of SCARLET by the same group, sharpens p to p^2 / sum p^2 and leaves both of these
    alone.
    Deviations: there is no official code; the number of public samples is SCARLET's. Batch size and optimiser are those
    of [train] in both phases; the two optimisers are kept over the rounds.
    """

    public_per_round: Annotated[int, Field(ge=0)] = 1000  # samples; 0 = all, fewer where there are fewer
    sharpening: Literal["entropy_reduction", "power"] = "entropy_reduction"  # of the mean of all predictions
    temperature: Positive = 0.1  # T of sharpening "entropy_reduction"; lower is sharper
    exponent: Positive = 2.0  # of sharpening "power"; higher is sharper
    aggregate: Reduction = "mean"  # how the server sums up the clients' probabilities; the paper's is the mean
    expguard: NonNegative = 0.0  # eta: how fast a client that stands out loses its weight; 0 = off, as in the paper
    distillation_epochs: Annotated[int, Field(ge=0)] = 0  # 0 = train.epochs, as in SCARLET

    paper: ClassVar[str] = "Itahara et al., IEEE TMC 2021, arXiv 2008.06180"
    sends: ClassVar[str] = "probabilities of public samples, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, server_net=True)
    outlives_its_round: ClassVar[bool] = False
    idle: ClassVar[Idle] = {
        "temperature": (When("sharpening", "entropy_reduction"),),
        "exponent": (When("sharpening", "power"),),
        "public_per_round": (Beyond("public_per_round"),),
    }

    def exchanges_per_round(self, experiment: Settings) -> int:
        """One to upload predictions, one to learn."""
        return 2

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Probabilities in the first exchange, nothing in the second."""
        shape = (len(server.public_subset(self.public_per_round)), server.classes)
        return {} if server.exchange else {"probabilities": TensorSpec(shape, torch.float32, "probabilities")}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Local epochs of cross-entropy, then predictions; in the second exchange, epochs towards their mean."""
        net, data = client.net(init="own", keep=True), client.train.labelled()
        if client.exchange == 0:
            losses = train_on_labels(net, data, optimizer=client.optimizer("private", net))
            probabilities = predict_public(net, client.public_subset(self.public_per_round)).softmax(1)  # (P, C)
            return Knowledge.of("probabilities", {"probabilities": probabilities}, weight=len(data), metrics=losses)
        return Knowledge(weight=len(data), metrics={"distillation": self._distil(client, broadcast)})

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The sharpened mean, from which the server's net learns too."""
        if server.exchange:
            return Knowledge()
        sharpen = {
            "entropy_reduction": partial(entropy_reduction, temperature=self.temperature),
            "power": partial(power, exponent=self.exponent),
        }[self.sharpening]
        together = guarded(server, stacked_probabilities(uploads), uploads, self._reduced, expguard=self.expguard)
        answer = Knowledge.of("probabilities", {"probabilities": sharpen(together)})
        server.report({"distillation": self._distil(server, answer)})
        return answer

    def _reduced(self, values: Tensor) -> Tensor:
        """Tables (K, P, C) to one whose rows sum to one, as means do by themselves."""
        rows = REDUCTIONS[self.aggregate](values)
        return rows if self.aggregate == "mean" else renormalise(rows.clamp_min(0))

    def _distil(self, node: Node, broadcast: Knowledge) -> float:
        net, targets = node.net(init="own", keep=True), broadcast.tensors["probabilities"]
        subset, optimizer = node.public_subset(self.public_per_round), node.optimizer("distillation", net)
        losses = distil(net, subset, targets, soft_cross_entropy, optimizer=optimizer, epochs=self.distillation_epochs)
        return losses["distillation"]

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The server's net, and each client's own."""
        name = "server" if isinstance(node, Server) else "main"
        return {name: classifier(node.net(init="own", keep=True))}
