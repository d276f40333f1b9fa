"""FML: a private net and a shared one teach each other at every client; only the shared one travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

from pydantic import Field
from torch import Tensor

from fedkd import Batch, Classifier, Client, Knowledge, Needs, Node, Positive, Server, Strategy, classifier
from fedkd.aggregate import weighted_mean
from fedkd.experiment.algorithm.conditions import Idle, Unless, When
from fedkd.losses.distillers import SOFTENED, LogitLossName, logit_loss
from fedkd.methods.mutual import fit_together, shared_net

Share = Annotated[float, Field(ge=0, le=1)]


@final
@dataclass(frozen=True)
class FML(Strategy):
    """Each client forks the global "meme" and trains it beside a local net of any kind, each the other's teacher.

    Paper: Shen et al., "Federated Mutual Learning", arXiv 2006.16765, equations 4 and 5 as usually stated.
    What travels: weights and buffers of the meme, ``shared_net`` (default: the server's net), down and up; |θ_m|
    elements each.
        local = alpha CE(local, y) + (1 - alpha) KL(meme || local)
        meme  = beta  CE(meme, y)  + (1 - beta)  KL(local || meme)
    Teachers are constants, T = 1. One step trains both. The local net and its optimiser's state persist, the meme's
    start anew at each fork. Memes count the same, however many samples their clients have. ``accuracy`` is the meme's,
    ``client_accuracy`` that of the local nets. With alpha = beta = 1 nothing is distilled: independent training beside
    FedAvg of the memes.
    Deviations: in the official main script the calls of fork and merge are commented out, and its merge adds to
    BatchNorm's statistics instead of replacing them and fails on their counters; here they are averaged, of counters
    the largest is taken.
    ``train.clip``, if set, bounds the gradient of both nets together.
    """

    alpha: Share = 0.5  # weight of the labels in the local net's loss
    beta: Share = 0.5  # weight of the labels in the meme's loss
    loss: LogitLossName = "kd"  # between the two nets, on logits, by name: see `fedkd losses`
    temperature: Positive = 1.0  # of that loss, if it has one; "kd" is multiplied by its square, not so in the paper

    paper: ClassVar[str] = "Shen et al. 2020, arXiv 2006.16765"
    sends: ClassVar[str] = "weights and buffers of a shared net, both ways"
    needs: ClassVar[Needs] = Needs(labels=True, uses=("server_net", "shared_net"))
    idle: ClassVar[Idle] = {
        "loss": (Unless(alpha=1, beta=1),),
        "temperature": (Unless(alpha=1, beta=1), When("loss", *SOFTENED)),
    }

    def first_broadcast(self, server: Server) -> Knowledge:
        """The meme's shared initial weights."""
        return Knowledge.of("weights", shared_net(server).state_dict())

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """Fork the meme, then local epochs of mutual learning."""
        nets = {"local": client.net(init="own", keep=True), "meme": shared_net(client, broadcast.tensors)}
        data, distil = client.train.labelled(), logit_loss(self.loss, temperature=self.temperature)

        def loss(nets: Any, batch: Batch) -> dict[str, Tensor]:
            local, meme = nets["local"](batch.inputs), nets["meme"](batch.inputs)  # (B, C) each
            return {
                "local_cross_entropy": self.alpha * batch.cross_entropy(local),
                "local_distillation": (1 - self.alpha) * distil(local, meme),
                "meme_cross_entropy": self.beta * batch.cross_entropy(meme),
                "meme_distillation": (1 - self.beta) * distil(meme, local),
            }

        losses = fit_together(client, nets, data, loss, passing="meme")
        return Knowledge.of("weights", nets["meme"].state_dict(), weight=len(data), metrics=losses)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Knowledge:
        """The plain mean of the memes."""
        return weighted_mean(uploads, weights=[1.0] * len(uploads))

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """The meme at the server, its local net at a client."""
        if isinstance(node, Server):
            return {"meme": classifier(shared_net(node, broadcast.tensors))}
        return {"local": classifier(node.net(init="own", keep=True))}
