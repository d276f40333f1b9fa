"""CFD: distillation both ways in one or a few bits a label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import Classifier, Client, Knowledge, Needs, Node, Server, Settings, Strategy, TensorSpec, classifier, load
from fedkd.aggregate import mean
from fedkd.experiment.algorithm.conditions import Beyond, Idle, Instead
from fedkd.losses import soft_cross_entropy
from fedkd.methods.public_distillation import distil, predict_public, stacked_probabilities, train_on_labels
from fedkd.nets import Net

Bits = Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 32]


@final
@dataclass(frozen=True)
class CFD(Strategy):
    """A fresh net learns the server's soft labels of fixed public samples, then its own, and sends its soft labels.

    Paper: Sattler et al., "CFD: Communication-Efficient Federated Distillation via Soft-Label Quantization and Delta
    Coding", IEEE TNSE 2022, arXiv 2012.00632.
    What travels: soft labels of P public samples in C classes, up and down for each client and round: 4 P C bytes as
    the strategy sees them; of b bits each, quantised, only where changed since the last that arrived, and deflated, on
    the wire. Clients begin every round at the same weights (for an architecture) and need nothing from earlier rounds
    but the last messages, for delta coding, so anyone may sit a round out; what they trained is kept to be evaluated.
    The server's net learns the mean and goes on over the rounds; its predictions are the broadcast (dual distillation).
    Deviations: deflate instead of CABAC. Epochs, batch size and optimiser are those of [train] in every phase, each of
    which begins with a new one, the server's too (the paper has Adam 1e-3). If the experiment names codecs itself,
    these run instead, and the bits here have no effect.
    """

    bits_up: Bits = 1  # b_up, of each quantised probability; 1 = the most likely class, 32 = as they are
    bits_down: Bits = 1  # b_down, of what is broadcast, likewise
    public_samples: Annotated[int, Field(ge=0)] = 0  # of the one subset X_pub for the whole run; 0 = all
    distillation_epochs: Annotated[int, Field(ge=0)] = 0  # epochs on the public samples; 0 = train.epochs

    paper: ClassVar[str] = "Sattler et al., IEEE TNSE 2022, arXiv 2012.00632"
    sends: ClassVar[str] = "quantised soft labels of public samples, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, public=True, server_net=True)
    renamed: ClassVar[Mapping[str, str]] = {"public_size": "public_samples"}
    idle: ClassVar[Idle] = {
        "bits_up": (Instead("uplink"),),
        "bits_down": (Instead("downlink"),),
        "public_samples": (Beyond("public_samples"),),
    }

    def uplink(self, experiment: Settings) -> tuple[str, ...]:
        """Quantised, delta coded and deflated, unless the experiment says otherwise."""
        return experiment.uplink or (f"bits{self.bits_up}", "delta", "deflate")

    def downlink(self, experiment: Settings) -> tuple[str, ...]:
        """As uploads."""
        return experiment.downlink or (f"bits{self.bits_down}", "delta", "deflate")

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """A row for each of the fixed public samples."""
        shape = (len(server.public_subset(self.public_samples, round=0)), server.classes)
        return {"probabilities": TensorSpec(shape, torch.float32, "probabilities")}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """From the common initial weights: the server's labels, then the client's own samples; then predict."""
        net, data = client.net(keep=True), client.train.labelled()
        load(net, client.net("fresh").state_dict())
        distilled = self._distil(client, net, broadcast.tensors["probabilities"]) if broadcast.tensors else {}
        losses = distilled | train_on_labels(net, data)
        return Knowledge.of("probabilities", self._predict(client, net), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The server's net learns the mean of the soft labels, and sends what it then predicts."""
        net = server.net(keep=True)
        server.report(self._distil(server, net, mean(stacked_probabilities(uploads))))
        return Knowledge.of("probabilities", self._predict(server, net))

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The server's net, and what each client last trained."""
        return {"server" if isinstance(node, Server) else "main": classifier(node.net(keep=True))}

    def _distil(self, node: Node, net: Net, targets: Tensor) -> dict[str, float]:
        subset = node.public_subset(self.public_samples, round=0)
        return distil(net, subset, targets, soft_cross_entropy, epochs=self.distillation_epochs)

    def _predict(self, node: Node, net: Net) -> dict[str, Tensor]:
        return {"probabilities": predict_public(net, node.public_subset(self.public_samples, round=0)).softmax(1)}
