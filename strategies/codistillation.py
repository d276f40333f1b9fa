"""Codistillation: clients on disjoint shards learn from stale copies of each other's nets, run on their own batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from fedkd import Classifier, Client, Experiment, Knowledge, Needs, Node, NonNegative, Server, Strategy, TensorSpec, classifier
from fedkd.experiment.algorithm.train import Batch, fit
from fedkd.losses import cross_entropy_loss
from fedkd.methods import checkpoints
from fedkd.methods.architecture_groups import weights_schema
from fedkd.nets import Net


@final
@dataclass(frozen=True)
class Codistillation(Strategy):
    """Cross-entropy on one's own shard plus ``weight`` psi(mean over the others of their predictions of the batch, one's own).

    Paper: Anil et al., "Large scale distributed neural network training through online distillation", ICLR 2018, arXiv
    1804.03235, Algorithm 1. psi is the cross-entropy with the mean of the others' probabilities; "kl" has its gradient and is 0
    where all agree; "logit_mse" is of mean logits. The others are constants, run in eval mode: their statistics stay.
    What travels: weights and buffers, every ``every`` steps: |θ_k| elements up, those of the K - 1 others down to each client,
    with their architectures. Nets and shards may differ; samples do not travel. Nets and optimisers live at the clients.
    A round has as many exchanges as the client with the most samples needs; each client splits its steps evenly over them. An
    exchange ends with checkpoints, and the ``staleness``-th from there uses them. ``staleness`` in the log: how many steps of
    its own a client has taken, on average over the exchange, since its copies were made. Who fails is in nobody's target
    until its next checkpoint. In the burn-in, counted in exchanges of the run, nothing travels but what is used after it.
    ``distillation_weight`` is 0 in it and where no checkpoint of others came. ``accuracy`` is the mean of the clients' nets.
    Deviations: the paper's workers read whatever checkpoint is there, and train on meanwhile; here all wait for each other, so
    that ages are equal and known. The burn-in is a share of the run, there a number of steps. PFN's code has the divergence the
    other way round, KL(own || others).
    """

    every: Annotated[int, Field(ge=0)] = 0  # steps between checkpoints; 0 = once a round. 50 in PFN's code
    weight: NonNegative = 1.0  # of psi
    loss: Literal["cross_entropy", "kl", "logit_mse"] = "cross_entropy"  # psi
    burn_in: Annotated[float, Field(ge=0, le=1)] = 0.1  # share of the run without psi; 28 of 70 epochs in PFN's code
    staleness: Annotated[int, Field(ge=1)] = 1  # in checkpoints; 1 = the others' last

    paper: ClassVar[str] = "Anil et al., ICLR 2018, arXiv 1804.03235"
    sends: ClassVar[str] = "weights and buffers up, those of all others down"
    needs: ClassVar[Needs] = Needs(labels=True)
    outlives_its_round: ClassVar[bool] = False  # a late copy would be older than what is logged
    compares_clients: ClassVar[bool] = True

    def exchanges_per_round(self, experiment: Experiment) -> int:
        """The steps of the client with the most samples over ``every``, rounded up."""
        return checkpoints.exchanges_per_round(experiment, self.every)

    def _when(self, node: Node) -> tuple[int, int, int]:
        """Exchanges a round; the number of this one and of the first after the burn-in, over the run."""
        exchanges = self.exchanges_per_round(node.experiment)
        first = round(self.burn_in * node.experiment.rounds * exchanges)
        return exchanges, checkpoints.clock(node, exchanges), first

    def upload_schema(self, server: Server, client: int) -> Mapping[str, TensorSpec]:
        """Weights and buffers of the client's architecture, if they are used after the burn-in."""
        _, now, first = self._when(server)
        return weights_schema(server, client) if now + self.staleness >= first else {}

    def client_update(self, client: Client, broadcast: Knowledge) -> Knowledge:
        """This exchange's steps, then a checkpoint."""
        exchanges, now, first = self._when(client)
        net, others = client.net(init="own", keep=True), checkpoints.nets_of_others(client, broadcast)
        data = client.train.labelled()
        draws = checkpoints.share_of_round(client, data, exchanges)

        def loss(net: Net, batch: Batch) -> dict[str, Tensor]:
            logits = net(batch.images)  # (B, C)
            parts = {"cross_entropy": cross_entropy_loss(logits, batch.labels)}
            if others:
                with torch.no_grad():
                    said = torch.stack([other(batch.images) for other in others])  # (K - 1, B, C)
                parts["distillation"] = self.weight * checkpoints.AGREEMENTS[self.loss](logits, said)
            return parts

        metrics = fit(net, data, loss, optimizer=client.optimizer("main", net), draws=draws) if draws else {}
        metrics["distillation_weight"] = self.weight if others else 0.0
        if others:
            made, steps = int(broadcast.header["made"]), checkpoints.steps_per_round(data)
            metrics["staleness"] = checkpoints.age_in_steps(made, now, exchanges, steps)
        sent = net.state_dict() if now + self.staleness >= first else {}
        return Knowledge.of("weights", sent, weight=len(data), metrics=metrics)

    def server_update(self, server: Server, uploads: Mapping[int, Knowledge]) -> Mapping[int, Knowledge]:
        """To each client the others' checkpoints."""
        return checkpoints.pass_on(server, uploads, self._when(server)[1], self.staleness)

    def predictors(self, node: Node, broadcast: Knowledge) -> Mapping[str, Classifier]:
        """A client's own net; the server has none."""
        return {"main": classifier(node.net(init="own", keep=True))} if isinstance(node, Client) else {}
